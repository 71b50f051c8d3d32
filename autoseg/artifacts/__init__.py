"""What lies on disk between stages: typed, frozen records and how they are read and written."""
