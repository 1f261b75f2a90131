"""What every room uses: errors, text on its way out, files that users bring, random streams, progress."""
