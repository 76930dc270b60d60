"""What several tests share: generated images, finished runs, servers, commands as processes."""
