//! The bare client: the yardstick for the daemons' speed. No ledger, no hash, no names: a 16-byte header with offset and length in
//! front of each chunk, so that a download can write each chunk to its place.
//!
//! It is a process of its own, so that its processor time and memory can be taken as a daemon's are. It says `ready` when it is
//! connected, begins when it is told `go`, says `done` when everything is acknowledged, or synced, and lives until its standard
//! input is closed. What must never happen here: `done` for bytes that were not acknowledged, or not synced.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use crossbeam_channel::{Receiver, bounded};
use kafka::{
    Admin, ConsumerSet, ConsumerTuning, Delivery, Outcome, Polled, Position, Producer, ProducerTuning,
    Reader, Settings, Split, Value,
};
use testkit::source::DEFAULT_CHUNK_BYTES;

/// Offset and length, both u64 little-endian.
const HEADER: usize = 16;
const MESSAGE_MAX: usize = kafka::DEFAULT_MAX_MESSAGE_BYTES;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the bare client is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Send this file.
    #[arg(long, conflicts_with = "download")]
    pub upload: Option<PathBuf>,
    /// Receive into this file.
    #[arg(long, required_unless_present = "upload")]
    pub download: Option<PathBuf>,
    /// Bytes to receive.
    #[arg(long, default_value_t = 0)]
    pub bytes: u64,
    #[arg(long)]
    pub bootstrap: String,
    #[arg(long)]
    pub topic: String,
    #[arg(long)]
    pub partitions: i32,
    /// Producers or consumers, each with a connection and partitions of its own.
    #[arg(long, default_value_t = 1)]
    pub clients: usize,
    /// Records on their way at most.
    #[arg(long, default_value_t = 32)]
    pub window: usize,
    /// One reader and writer for all partitions instead of one for each.
    #[arg(long)]
    pub merged: bool,
    /// The sending thread serves the producers' reports itself, as the uploader's engine does.
    #[arg(long)]
    pub attended: bool,
    /// Scheduled as a batch, as the uploader is.
    #[arg(long)]
    pub batch: bool,
    /// KEY=VALUE of librdkafka.
    #[arg(long)]
    pub property: Vec<String>,
}

impl Options {
    fn settings(&self) -> Result<Settings> {
        let mut settings = Settings {
            properties: [("bootstrap.servers".to_owned(), self.bootstrap.clone())].into(),
            topic: self.topic.clone(),
            client_id: "bare".to_owned(),
        };
        for property in &self.property {
            let (key, value) = property.split_once('=').context("--property KEY=VALUE")?;
            settings.properties.insert(key.to_owned(), value.to_owned());
        }
        Ok(settings)
    }
}

/// The process' whole life.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.batch {
        kafka::schedule_as_batch();
    }
    match (&options.upload, &options.download) {
        (Some(file), _) => upload(options, file)?,
        (None, Some(out)) => download(options, out)?,
        (None, None) => bail!("nothing to do"),
    }
    // The other side looks at our figures before it lets us go.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn say(word: &str) -> Result<()> {
    println!("{word}");
    Ok(std::io::stdout().flush()?)
}

fn await_go() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != "go" {
        bail!("told {line:?} instead of \"go\"");
    }
    Ok(())
}

/// Producers whose buffers come back through a channel, and how many of their records were not acknowledged.
struct Sending {
    producers: Vec<Producer<()>>,
    buffers: Receiver<Vec<u8>>,
    unproven: Arc<AtomicU64>,
}

fn sending(options: &Options, chunk: usize) -> Result<Sending> {
    let window = options.window.max(1);
    let tuning = ProducerTuning {
        message_max_bytes: MESSAGE_MAX - 61,
        queue_max_kbytes: window * (chunk + HEADER) / 1024 * 2,
        idempotence: false,
        linger: Duration::from_millis(5),
    };
    // As many buffers as may be on their way; each comes back with its report.
    let (give_back, buffers) = bounded(window);
    for _ in 0..window {
        give_back.send(Vec::with_capacity(Value::ALIGNMENT + HEADER + chunk))?;
    }
    let unproven = Arc::new(AtomicU64::new(0));
    let start = |_| {
        let (counted, give_back) = (Arc::clone(&unproven), give_back.clone());
        let on_delivery = move |delivery: Delivery<()>| {
            if !matches!(delivery.outcome, Outcome::Acknowledged { .. }) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            // Has room for every buffer there is.
            let _ = give_back.try_send(delivery.value.into_buffer());
        };
        let (settings, on_delivery) = (options.settings()?, Box::new(on_delivery));
        if !options.attended {
            return Ok(Producer::new(&settings, &tuning, on_delivery)?);
        }
        let sender = std::thread::current();
        Ok(Producer::attended(&settings, &tuning, on_delivery, Box::new(move || sender.unpark()))?)
    };
    let producers = (0..options.clients.max(1)).map(start).collect::<Result<Vec<_>>>()?;
    Ok(Sending { producers, buffers, unproven })
}

fn upload(options: &Options, path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata()?.len();
    let chunk = usize::try_from(DEFAULT_CHUNK_BYTES)?;
    // Every partition must have a leader before the first record.
    Admin::new(&options.settings()?)?.all_watermarks(options.partitions, TIMEOUT)?;
    let Sending { producers, buffers, unproven } = sending(options, chunk)?;
    // As the daemon's are when it is ready.
    for producer in &producers {
        if !producer.connect(TIMEOUT) {
            bail!("no connection to the broker");
        }
    }
    say("ready")?;
    await_go()?;
    let (mut at, mut partition) = (0, 0);
    while at < size {
        let mut buffer = if options.attended { served(&producers, &buffers) } else { buffers.recv()? };
        let length = DEFAULT_CHUNK_BYTES.min(size - at);
        let from = Value::start(&buffer, HEADER);
        buffer.resize(from + HEADER + usize::try_from(length)?, 0);
        let record = &mut buffer[from..];
        record[..8].copy_from_slice(&at.to_le_bytes());
        record[8..HEADER].copy_from_slice(&length.to_le_bytes());
        file.read_exact_at(&mut record[HEADER..], at)?;
        let value = Value::new(buffer, from);
        let producer = &producers[usize::try_from(partition)? % producers.len()];
        producer.send(partition, &[], value, ()).map_err(|rejected| anyhow!(rejected.error))?;
        at += length;
        partition = (partition + 1) % options.partitions;
    }
    for producer in &producers {
        if !producer.flush(TIMEOUT) {
            bail!("{} records were not reported", producer.in_flight());
        }
    }
    let unproven = unproven.load(Ordering::Relaxed);
    if unproven > 0 {
        bail!("{unproven} records were not acknowledged");
    }
    say("done")
}

/// The next buffer that comes back; the reports are served here.
fn served(producers: &[Producer<()>], buffers: &Receiver<Vec<u8>>) -> Vec<u8> {
    loop {
        if let Ok(buffer) = buffers.try_recv() {
            return buffer;
        }
        producers.iter().for_each(Producer::serve);
        if buffers.is_empty() {
            std::thread::park();
        }
    }
}

fn download(options: &Options, out: &Path) -> Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(out)?;
    let tuning = ConsumerTuning {
        queued_max_kbytes_total: 131_072,
        fetch_max_bytes: 16 << 20,
        message_max_bytes: MESSAGE_MAX,
        held_max_bytes: usize::MAX,
        fetch_interval: Duration::ZERO,
        clients: options.clients,
    };
    let positions: Vec<Position> =
        (0..options.partitions).map(|partition| Position { partition, offset: 0 }).collect();
    let split = if options.merged { Split::Merged } else { Split::PerPartition };
    Admin::new(&options.settings()?)?.all_watermarks(options.partitions, TIMEOUT)?;
    let (set, readers) = ConsumerSet::start(&options.settings()?, "bare", &positions, split, &tuning)?;
    // As with the daemon, whose word comes when its readers start.
    say("ready")?;
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .into_iter()
            .map(|reader| scope.spawn(|| write_chunks(reader, &file, options.bytes, &written)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a reader panicked"))?)
    })?;
    file.sync_all()?;
    say("done")?;
    set.stop(TIMEOUT);
    Ok(())
}

fn write_chunks(mut reader: Reader, file: &File, bytes: u64, written: &AtomicU64) -> Result<()> {
    while written.load(Ordering::Relaxed) < bytes {
        match reader.poll(Duration::from_millis(20)) {
            Polled::Record(record) => {
                let value = record.value();
                let header = value.get(..8).context("a record without a header")?;
                let at = u64::from_le_bytes(header.try_into()?);
                file.write_all_at(&value[HEADER..], at)?;
                written.fetch_add(u64::try_from(value.len() - HEADER)?, Ordering::Relaxed);
            }
            Polled::EndOfPartition { .. } | Polled::Nothing => {}
            Polled::OffsetOutOfRange { partition } => bail!("partition {partition} lost its start"),
            Polled::Unreadable { message, .. } | Polled::Error { message, .. } => bail!(message),
        }
    }
    Ok(())
}
