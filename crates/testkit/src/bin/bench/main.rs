//! `make bench`: product and bare client in alternation on one real Kafka, the plain yardsticks of the same disk, and the table of
//! both against the targets.
//!
//! What must never happen here: a figure for bytes that did not arrive, a yardstick slower than we can make it, a comparison of two
//! things measured under different conditions, files or topics left behind.

mod bare;
mod measure;
mod place;
mod plot;
mod rows;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::place::Place;
use crate::rows::Row;
use crate::table::Line;

/// Measures the daemons against the bare Kafka client and the plain tools of this machine.
#[derive(Debug, Parser)]
#[command(name = "streamsend-bench")]
struct Options {
    #[command(subcommand)]
    bare: Option<Hidden>,
    /// Only these rows; see --list. `scale` stands for all whose names begin with it.
    #[arg(long, value_delimiter = ',', value_parser = known)]
    only: Vec<String>,
    /// Names the rows.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    scale: Scale,
}

/// How much is measured. The defaults are what the targets speak of.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Scale {
    /// Pairs of product and yardstick, in alternation.
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// The large file, bytes.
    #[arg(long, default_value = "2GB", value_parser = bytes)]
    pub size: u64,
    /// The file that is held against one of 1 GB for the memory it takes, bytes; disk is needed for it twice.
    #[arg(long, default_value = "10GB", value_parser = bytes)]
    pub large: u64,
    /// Small files of 4 KiB.
    #[arg(long, default_value_t = 100_000)]
    pub files: u64,
    /// Files of the large backlog.
    #[arg(long, default_value_t = 1_000_000)]
    pub backlog: u64,
    /// Single files of which the delay is taken.
    #[arg(long, default_value_t = 300)]
    pub singles: usize,
    /// Seconds for which the idle daemons and the pace are watched.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// How long the long link is, there and back, milliseconds. A busy machine fills no link of 50; over a longer one it is the link that counts.
    #[arg(long, default_value_t = 50)]
    pub round_trip: u64,
    /// Draws the curves of the rows `scale-…` into this folder, as SVG.
    #[arg(long)]
    pub plots: Option<std::path::PathBuf>,
    /// Does not look for the bare client's best settings first.
    #[arg(long)]
    pub untuned: bool,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// The bare client, as a process of its own.
    #[command(hide = true)]
    Bare(bare::Options),
}

/// Whether the row is asked for: by its name, or by what stands before the dash in it.
fn is_named(row: &Row, name: &str) -> bool {
    row.name == name
        || row.name.strip_prefix(name).is_some_and(|rest| name == "scale" && rest.starts_with('-'))
}

fn known(name: &str) -> Result<String, String> {
    let any = rows::ALL.iter().any(|row| is_named(row, name));
    if any { Ok(name.to_owned()) } else { Err("no such row; see --list".to_owned()) }
}

/// `2GB`, `500MB`, or plain bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match (text.strip_suffix("GB"), text.strip_suffix("MB")) {
        (Some(digits), _) => (digits, 1_000_000_000),
        (None, Some(digits)) => (digits, 1_000_000),
        (None, None) => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "a number with GB, MB or nothing".to_owned())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(|| "out of range".to_owned())
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Hidden::Bare(bare)) = &options.bare {
        return match bare::run(bare) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bare client: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if options.list {
        rows::ALL.iter().for_each(|row| println!("{:<12} {}", row.name, row.what));
        return ExitCode::SUCCESS;
    }
    bench(&options)
}

fn bench(options: &Options) -> ExitCode {
    print!("{}", table::machine());
    let only = &options.only;
    let is_chosen = |row: &&Row| only.is_empty() || only.iter().any(|name| is_named(row, name));
    let chosen: Vec<&Row> = rows::ALL.iter().filter(is_chosen).collect();
    let (mut lines, mut failed): (Vec<Line>, Vec<String>) = (Vec::new(), Vec::new());
    for row in chosen {
        println!("\n{}: {}", row.name, row.what);
        // Waiting in the test kit panics; the other rows are measured all the same.
        let measured =
            std::panic::catch_unwind(|| Place::new(&options.scale).and_then(|place| (row.run)(&place)));
        match measured {
            Ok(Ok(found)) => lines.extend(found),
            Ok(Err(error)) => failed.push(format!("{}: {error:#}", row.name)),
            Err(_) => failed.push(format!("{}: see above", row.name)),
        }
    }
    println!("\n{}", table::markdown(&lines));
    failed.iter().for_each(|row| println!("not measured: {row}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
