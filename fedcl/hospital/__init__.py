"""What runs at a hospital: the ClientApp, its data and networks, and what it keeps."""
