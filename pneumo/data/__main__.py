"""python -m pneumo.data: the same command as `pneumo data`."""

from pneumo.data_command import main

if __name__ == "__main__":
    main()
