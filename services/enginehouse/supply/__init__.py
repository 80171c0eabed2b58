"""What may run here: an operator's policy of images, signatures and scan reports, and the one place that decides by it."""
