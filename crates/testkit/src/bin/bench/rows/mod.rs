//! What is measured, one row of the targets each, independent of the others.
//!
//! What must never happen here: a row that needs another one to have run before.

mod large;
mod link;
mod memory;
mod open;
mod pace;
mod scale;
mod single;
mod small;
mod start;

use anyhow::Result;

use crate::place::Place;
use crate::table::Line;

/// A row that can be asked for by name.
pub(crate) struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&Place) -> Result<Vec<Line>>,
}

/// All of them, in the order of the targets.
pub(crate) static ALL: &[Row] = &[
    Row { name: "upload", what: "a large file from the page cache to the broker", run: large::upload },
    Row { name: "download", what: "the same from the broker to the disk", run: large::download },
    Row { name: "both", what: "the same from end to end", run: large::both },
    Row { name: "small-up", what: "many small files to the broker", run: small::upload },
    Row { name: "small-down", what: "the same from the broker, each one durable", run: small::download },
    Row { name: "single", what: "one small file, from its closing to its being visible", run: single::delay },
    Row {
        name: "memory",
        what: "peak memory of a small against a large file, 16 partitions",
        run: memory::growth,
    },
    Row { name: "pace", what: "8 partitions under a cap of 1 MB/s each", run: pace::capped },
    Row { name: "link", what: "a long link, one partition against several", run: link::long },
    Row { name: "link-down", what: "a large file over the long link to the disk", run: link::down },
    Row { name: "backlog", what: "a very large number of files, start to first record", run: start::backlog },
    Row { name: "idle", what: "both daemons with nothing to do", run: memory::idle },
    Row { name: "restart", what: "start with many files remembered", run: start::remembered },
    Row {
        name: "scale-speed",
        what: "speed over 1 to 16 partitions, capped and far",
        run: scale::partitions,
    },
    Row {
        name: "scale-partitions",
        what: "memory and processor time over 1 to 128 partitions",
        run: scale::costs_of_partitions,
    },
    Row {
        name: "scale-files",
        what: "memory and processor time over the number of files",
        run: scale::costs_of_files,
    },
    Row {
        name: "scale-open",
        what: "memory and processor time over transfers that are open at the same time",
        run: open::costs,
    },
    Row { name: "scale-uploaders", what: "1 to 64 uploaders into one topic", run: scale::uploaders },
    Row { name: "scale-brokers", what: "one broker against three with three copies", run: scale::brokers },
];

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
