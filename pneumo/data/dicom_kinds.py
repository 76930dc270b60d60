"""What a DICOM file is that is not a radiograph: archives mix CT, MR, reports and directories with X-rays."""

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# What the SOP class says, by the beginning of its UID (PS3.6, annex A); the longest that fits decides.
KINDS = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    **{
        f"{_STORAGE}{part}": kind
        for part, kind in {
            "1.2": "MG", "1.3": "IO", "2": "CT", "3": "US", "4": "MR", "5": "NM", "6": "US",
            "7": "secondary capture", "9": "waveform", "11": "presentation state", "12.1": "XA", "12.2": "RF",
            "13": "XA", "13.1.3": "MG", "13.1.4": "MG", "13.1.5": "MG", "14": "OCT", "20": "NM",
            "30": "parametric map", "66": "raw data", "66.1": "registration", "66.3": "registration",
            "66.4": "segmentation", "66.5": "segmentation", "67": "value mapping", "77": "photograph",
            "78": "measurements", "79": "measurements", "80": "measurements", "81": "measurements",
            "82": "measurements", "88": "SR", "88.59": "key object selection", "104": "encapsulated document",
            "104.1": "PDF", "128": "PET", "130": "PET", "481": "RT",
        }.items()
    },
    "1.2.840.10008.5.1.4.34": "RT",
    "1.2.840.10008.5.1.4.38": "hanging protocol",
    "1.2.840.10008.5.1.4.39": "color palette",
}  # fmt: skip


def of_class(uid: str) -> str | None:
    """The kind of a SOP class; None for one that is not known or can be a radiograph."""
    while uid:
        if uid in KINDS:
            return KINDS[uid]
        uid = uid.rpartition(".")[0]
    return None
