//! Standard output, tables, and numbers for people.
//!
//! What must never happen here: a panic because the reader of a pipe went away (`streamsend inspect | head`).

pub use daemon::bytes_text as bytes;
use std::io::{self, Write};

use daemon::{Exit, Stop};

/// Where a command writes what it found: standard output, or a test's memory.
pub(crate) struct Out<'a> {
    to: &'a mut dyn Write,
}

impl<'a> Out<'a> {
    pub fn new(to: &'a mut dyn Write) -> Self {
        Out { to }
    }

    /// One line.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Stop> {
        writeln!(self.to, "{text}").map_err(|error| stop(&error))
    }

    /// Makes sure that everything is out.
    pub fn finish(&mut self) -> Result<(), Stop> {
        self.to.flush().map_err(|error| stop(&error))
    }
}

/// A reader that has seen enough ends the program in peace: an empty message is not printed.
fn stop(error: &io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::new(Exit::Done, ""),
        _ => Stop::io("standard output", error),
    }
}

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of text in columns as wide as they need to be.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let header = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Table { columns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![header] }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// The lines, two spaces between columns, none at the end.
    pub fn lines(&self) -> Vec<String> {
        let cell_width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| cell_width(column).unwrap_or(0)).collect();
        let cell = |(text, (width, align)): (&String, (&usize, &Align))| match align {
            Align::Left => format!("{text:<width$}"),
            Align::Right => format!("{text:>width$}"),
        };
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(widths.iter().zip(&self.columns)).map(cell).collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// Seconds for people: `3 d 04 h`, `2 h 05 min`, `7 min 03 s`, `12 s`.
pub fn seconds(count: u64) -> String {
    let (days, hours, minutes, seconds) = (count / 86_400, count / 3600 % 24, count / 60 % 60, count % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds:02} s"),
        (0, _, _) => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells() {
        let mut table = Table::new(&[("name", Align::Left), ("bytes", Align::Right)]);
        table.row(["a".into(), "1234567".into()]);
        table.row(["grün und lang".into(), String::new()]);
        assert_eq!(table.lines(), ["name             bytes", "a              1234567", "grün und lang"]);
    }

    #[test]
    fn numbers_for_people() {
        let shown: Vec<String> = [0, 999, 1000, 999_949, 999_950, 1_500_000_000, u64::MAX].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 GB", "18.4 EB"]);
        let shown: Vec<String> = [0, 59, 60, 3599, 3600, 86_399, 90_000].map(seconds).into();
        assert_eq!(
            shown,
            ["0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "23 h 59 min", "1 d 01 h"]
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(Out::new(&mut Closed).line("x"), Err(Stop::new(Exit::Done, "")));
    }
}
