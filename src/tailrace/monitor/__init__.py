"""What is measured: histograms, metrics, exposition."""
