"""Pure numeric engines that judge numbers in time: they know values and times, no daemon and no other room."""
