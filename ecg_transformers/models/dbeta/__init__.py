"""D-BETA: ECGs and reports in one space, trained with masking, matching and contrast."""
