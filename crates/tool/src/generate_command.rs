//! `streamsend generate DIR`: makes test files, or checks them wherever they went.

use std::io::{self, IsTerminal as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::Args;
use daemon::{Exit, Stop};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::generate::{self, Generated, Set};
use crate::out::Out;

/// Wrong files that are named.
const LISTED_MAX: usize = 50;

#[derive(Args)]
pub(crate) struct Generate {
    /// Folder to write into (or to check); made if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// How many files
    #[arg(long, value_name = "N", default_value_t = 100)]
    files: u64,
    /// Bytes of each file: 64KiB, 10MB, or a range to draw from such as 1KiB..1MiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_sizes)]
    size: RangeInclusive<u64>,
    /// Another seed makes other content
    #[arg(long, value_name = "K", default_value_t = 1)]
    seed: u64,
    /// Write nothing: check every generated file found in DIR or below (their names say what their content must be), and that
    /// all files of this set are there if --files is given
    #[arg(long)]
    verify: bool,
}

fn parse_sizes(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let (low, high) = (
        crate::units::parse_size(low.trim())?,
        crate::units::parse_size(high.trim_start_matches('=').trim())?,
    );
    if low > high {
        return Err("the range ends before it begins".to_owned());
    }
    Ok(low..=high)
}

/// `files_given`: whether `--files` was on the command line.
pub(crate) fn run(what: &Generate, files_given: bool, out: &mut Out<'_>) -> Result<(), Stop> {
    let set = Set { seed: what.seed, files: what.files, size: what.size.clone() };
    if what.verify {
        verify(&what.directory, files_given.then_some(&set), out)
    } else {
        write(&what.directory, &set, out)
    }
}

fn write(directory: &Path, set: &Set, out: &mut Out<'_>) -> Result<(), Stop> {
    let total = set.iter().map(|file| file.size).fold(0, u64::saturating_add);
    let bar = progress_bar(total);
    for file in set.iter() {
        let written = file.write(directory, |bytes| bar.inc(bytes));
        written.map_err(|error| Stop::io(directory.join(file.path()).display(), &error))?;
    }
    bar.finish_and_clear();
    let directory = daemon::escape_name(directory.as_os_str().as_encoded_bytes());
    out.line(format_args!("{} file(s), {total} bytes, seed {}, in {directory}", set.files, set.seed))?;
    Ok(())
}

fn verify(directory: &Path, set: Option<&Set>, out: &mut Out<'_>) -> Result<(), Stop> {
    let found = generate::find(directory).map_err(|error| Stop::io(directory.display(), &error))?;
    let bar = progress_bar(found.iter().map(|(_, file)| file.size).fold(0, u64::saturating_add));
    let mut wrong = 0;
    let mut complain = |out: &mut Out<'_>, path: &Path, what: &dyn std::fmt::Display| {
        wrong += 1;
        let name = daemon::escape_name(path.as_os_str().as_encoded_bytes()).to_string();
        if wrong <= LISTED_MAX { out.line(format_args!("{name}: {what}")) } else { Ok(()) }
    };
    for (path, file) in &found {
        match file.verify(path, |bytes| bar.inc(bytes)) {
            Ok(Ok(())) => {}
            Ok(Err(mismatch)) => complain(out, path, &mismatch)?,
            Err(error) => complain(out, path, &error)?,
        }
    }
    bar.finish_and_clear();
    let there: std::collections::HashSet<Generated> = found.iter().map(|(_, file)| *file).collect();
    for file in set.into_iter().flat_map(Set::iter).filter(|file| !there.contains(file)) {
        complain(out, &file.path(), &"missing")?;
    }
    out.line(format_args!("{} file(s) checked, {wrong} wrong or missing", found.len()))?;
    match (wrong, found.is_empty()) {
        (0, false) => Ok(()),
        (0, true) => Err(Stop::new(Exit::Io, format!("{}: no generated files there", directory.display()))),
        _ => Err(Stop::new(Exit::Io, format!("{}: {wrong} file(s) wrong or missing", directory.display()))),
    }
}

fn progress_bar(total: u64) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(
        "{wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta}",
    );
    let bar = ProgressBar::with_draw_target(Some(total), target);
    bar.set_style(style.expect("the template is well-formed"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_or_a_range() {
        assert_eq!(parse_sizes("4KiB"), Ok(4096..=4096));
        assert_eq!(parse_sizes("1KiB..1MiB"), Ok(1024..=1 << 20));
        assert_eq!(parse_sizes("0 .. 10MB"), Ok(0..=10_000_000));
        for text in ["", "x", "..", "2..1", "1KiB..", "-1"] {
            assert!(parse_sizes(text).is_err(), "{text:?}");
        }
    }
}
