"""What crosses between server and hospitals, and over which Flower grid."""
