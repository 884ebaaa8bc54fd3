//! Snapshot files survive what disks do.
