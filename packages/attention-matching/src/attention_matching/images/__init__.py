"""Images in and out: preprocessing, augmentation, choice of real images, distilled sets, keyed random draws."""
