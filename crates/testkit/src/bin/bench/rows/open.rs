//! Memory and processor time over the number of transfers that are open at the same time.
//!
//! An uploader opens 16 files of up to 64 chunks at once and no more, so it is shown up to there. A downloader has open what all uploaders
//! together have, up to `accept.open_files_max`: it gets the first chunks of so many files as from many uploaders, and the rest when all are open.
//!
//! What must never happen here: a point for transfers of which some were over before the last one began.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use protocol::{
    Attempt, Body, FileMeta, Header, Incarnation, Name, Record, RelativePath, TransferId, UploaderId,
};
use testkit::page::LISTEN;
use testkit::{Daemon, LONG, Page, Rig, forge, topic, tree, wait_until};

use super::scale::{draw_if_wanted, line, set_aside};
use crate::measure::{Usage, settle};
use crate::place::{DELIVERED, Place, UPLOADED, await_files};
use crate::plot::Curve;
use crate::table::{Line, Target};

const MIB: f64 = 1_048_576.0;
const PARTITIONS: u32 = 6;
/// Bytes of a chunk, and chunks of each file.
const CHUNK: u32 = 16_384;
const CHUNKS: u64 = 8;
const FILE_BYTES: u64 = CHUNKS * CHUNK as u64;
/// Up to what one uploader has open at once of files of this size (`Lane::Middling`).
const UPLOADS: [u64; 3] = [1, 4, 16];
/// Up to `accept.open_files_max`.
const DOWNLOADS: [u64; 6] = [1, 16, 64, 256, 1024, 4096];

/// See the module.
pub(crate) fn costs(place: &Place) -> Result<Vec<Line>> {
    let mut memory = [Curve::new("uploader"), Curve::new("downloader")];
    let mut time = [
        Curve::new("uploader"),
        Curve::new("downloader, until all are delivered"),
        Curve::new("downloader, until all are open"),
    ];
    for files in UPLOADS {
        let usage = uploads(place, files)?;
        println!(
            "  {files} open: uploader {:.1} MiB, {:.3} CPU ms/file",
            usage.peak as f64 / MIB,
            per_file(&usage, files)
        );
        memory[0].points.push((files as f64, usage.peak as f64 / MIB));
        time[0].points.push((files as f64, per_file(&usage, files)));
    }
    for files in DOWNLOADS {
        let (open, rest) = downloads(place, files)?;
        let (opened, all) = (per_file(&open, files), per_file(&open, files) + per_file(&rest, files));
        println!(
            "  {files} open: downloader {:.1} MiB, {opened:.3} CPU ms/file until then, {all:.3} until all are delivered",
            open.peak as f64 / MIB
        );
        memory[1].points.push((files as f64, open.peak as f64 / MIB));
        time[1].points.push((files as f64, all));
        time[2].points.push((files as f64, opened));
    }
    let (over, unit) = ("transfers at the same time", "CPU ms/file");
    let titles = (format!("Peak memory over {over}"), format!("Processor time over {over}"));
    draw_if_wanted(place, "scale-open-memory", &titles.0, (over, "MiB"), &memory)?;
    draw_if_wanted(place, "scale-open-time", &titles.1, (over, unit), &time)?;
    let memory = memory.iter().map(|curve| line(&titles.0, "MiB", curve, Target::None));
    let time = time.iter().map(|curve| line(&titles.1, unit, curve, Target::None));
    Ok(memory.chain(time).collect())
}

fn per_file(usage: &Usage, files: u64) -> f64 {
    usage.exact_cpu() * 1e3 / files as f64
}

/// What an uploader took for so many files that were dropped at once, all of them open before the first was over.
fn uploads(place: &Place, files: u64) -> Result<Usage> {
    let round = place.round(PARTITIONS as i32);
    // Each file is under way for about a second, so that all of them are seen open.
    let rate = format!("rate_max={}KB/s", FILE_BYTES * files / 1_000);
    let chunk = format!("chunk_size={CHUNK}");
    let mut uploader = round.ready_uploader(&["--set", &chunk, "--set", &rate]);
    let aside = set_aside(&round, files, FILE_BYTES);
    settle();
    let before = Usage::of(uploader.pid())?;
    testkit::source::rename(&aside, &round.spool.join("set"));
    await_open(&uploader, &round.spool, files)?;
    await_files(&mut uploader, 0, UPLOADED, files)?;
    let usage = Usage::of(uploader.pid())?.since(before);
    round.end(uploader);
    Ok(usage)
}

/// What a downloader took until so many transfers were open, its peak with all of them; and what it took for the rest of them.
fn downloads(place: &Place, files: u64) -> Result<(Usage, Usage)> {
    let round = place.round(PARTITIONS as i32);
    let mut downloader = round.ready_downloader(&LISTEN);
    let page = Page::of(&downloader);
    let before = Usage::of(downloader.pid())?;
    send_chunk(&round, files, 0);
    await_open(&downloader, &round.output, files)?;
    let open = Usage::of(downloader.pid())?.since(before);
    // It is asked only now, as each answer costs it something, and what that is belongs to no file.
    let is_open = || {
        page.metric("streamsend_files_under_way") == Some(files)
            && page.metric("streamsend_under_way_bytes") == Some(files * u64::from(CHUNK))
    };
    ensure!(wait_until(LONG, is_open), "{files} transfers were not open:\n{}", downloader.tail());
    let asked = Usage::of(downloader.pid())?;
    (1..CHUNKS).for_each(|index| send_chunk(&round, files, index));
    send_ends(&round, files);
    await_files(&mut downloader, 0, DELIVERED, files)?;
    let rest = Usage::of(downloader.pid())?.since(asked);
    round.end(downloader);
    let found = tree::digest(&round.output).len() as u64;
    ensure!(found == files, "{found} of {files} files are in the output");
    Ok((Usage { peak: asked.peak, ..open }, rest))
}

/// Waits until the daemon has so many files open below a folder, by the kernel's word, which costs the daemon nothing.
fn await_open(daemon: &Daemon, below: &Path, files: u64) -> Result<()> {
    let descriptors = format!("/proc/{}/fd", daemon.pid());
    let is_file = |link: &Path| {
        fs::read_link(link).is_ok_and(|to| to.starts_with(below))
            && fs::metadata(link).is_ok_and(|metadata| metadata.is_file())
    };
    let open = || -> u64 {
        let entries = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        entries.filter(|entry| is_file(&entry.path())).count() as u64
    };
    ensure!(wait_until(LONG, || open() >= files), "{} of {files} are open:\n{}", open(), daemon.tail());
    Ok(())
}

fn content(number: u64) -> [u8; CHUNK as usize] {
    [number as u8; CHUNK as usize]
}

fn header(number: u64) -> Header {
    let name = |text| Name::new(text).expect("a plain word");
    Header {
        // Two files for each uploader, as if they were many.
        transfer: TransferId {
            uploader: UploaderId(u128::from(number / 2).to_be_bytes()),
            incarnation: Incarnation(1),
            sequence: number % 2,
        },
        attempt: Attempt(0),
        closed_below: 0,
        uploader: name("many"),
        spool: name("in"),
        file: FileMeta {
            path: RelativePath::new(format!("{}/{number}", number / 1_000).into_bytes())
                .expect("a folder and a name"),
            size: FILE_BYTES,
            mtime_seconds: 0,
            mtime_nanos: 0,
            mode: 0o644,
        },
        chunk_size: CHUNK,
        first_partition: (number % u64::from(PARTITIONS)) as u32,
        partition_count: PARTITIONS,
    }
}

/// The chunk of this number of every file, to the partition it belongs to.
fn send_chunk(rig: &Rig, files: u64, index: u64) {
    send(rig, files, |number| {
        let header = header(number);
        let partition = protocol::chunk_partition(header.first_partition, PARTITIONS, index);
        (partition, forge::chunk(header, index, &content(number)))
    });
}

fn send_ends(rig: &Rig, files: u64) {
    send(rig, files, |number| {
        let header = header(number);
        let whole = content(number).repeat(CHUNKS as usize);
        let body = Body::End { digest: protocol::whole_digest(&whole) };
        (header.first_partition, protocol::encode(&Record { header, body }))
    });
}

fn send(rig: &Rig, files: u64, record: impl Fn(u64) -> (u32, Vec<u8>)) {
    let values: Vec<(u32, Vec<u8>)> = (0..files).map(record).collect();
    let records: Vec<(i32, &[u8], &[u8])> =
        values.iter().map(|(partition, value)| (*partition as i32, &b""[..], &value[..])).collect();
    topic::produce(&rig.bootstrap, &rig.topic, &records);
}
