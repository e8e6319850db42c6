"""From labelled and unlabelled scans to a bundle."""
