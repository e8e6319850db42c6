"""Training: from labelled and unlabelled scans to a bundle."""
