//! The bare client: the yardstick for the daemons' speed. No ledger, no hash, no names: a 16-byte header with offset
//! and length in front of each chunk, so that a download can write each chunk to its place.
//!
//! What must never happen here: a figure printed for bytes that were not acknowledged, or not synced.
//!
//! ```text
//! bare upload FILE --bootstrap B --topic T [--partitions N] [--chunk C] [--window W]
//! bare download --bootstrap B --topic T --out FILE --bytes N [--partitions N]
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kafka::{
    Admin, ConsumerSet, ConsumerTuning, Delivery, Outcome, Polled, Position, Producer, ProducerTuning,
    Reader, Settings, Split,
};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Offset and length, both u64 little-endian.
const HEADER: usize = 16;
const MESSAGE_MAX: usize = 1_048_588;
const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> Fallible<()> {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let options = Options::read(words)?;
    match verb.as_str() {
        "upload" => upload(&options),
        "download" => download(&options),
        _ => Err("usage: bare upload FILE | bare download, with --bootstrap B --topic T ...".into()),
    }
}

struct Options {
    file: Option<String>,
    named: BTreeMap<String, String>,
}

impl Options {
    fn read(words: impl Iterator<Item = String>) -> Fallible<Self> {
        let (mut file, mut named) = (None, BTreeMap::new());
        let mut words = words;
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    named.insert(name.to_owned(), value);
                }
                None => file = Some(word),
            }
        }
        Ok(Self { file, named })
    }

    fn text(&self, name: &str) -> Fallible<&str> {
        self.named.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is missing").into())
    }

    fn number(&self, name: &str, default: u64) -> Fallible<u64> {
        self.named
            .get(name)
            .map_or(Ok(default), |value| value.parse().map_err(|_| format!("--{name}").into()))
    }

    fn partitions(&self) -> Fallible<i32> {
        Ok(i32::try_from(self.number("partitions", 6)?)?)
    }

    fn settings(&self) -> Fallible<Settings> {
        let mut properties = BTreeMap::new();
        properties.insert("bootstrap.servers".to_owned(), self.text("bootstrap")?.to_owned());
        // Anything else with a dot is a property of librdkafka, to try things out.
        let tuned = self.named.iter().filter(|(name, _)| name.contains('.'));
        properties.extend(tuned.map(|(name, value)| (name.clone(), value.clone())));
        Ok(Settings { properties, topic: self.text("topic")?.to_owned(), client_id: "bare".to_owned() })
    }
}

fn upload(options: &Options) -> Fallible<()> {
    let path = options.file.as_deref().ok_or("upload needs a FILE")?;
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let chunk = usize::try_from(options.number("chunk", 1_032_192)?)?;
    let window = usize::try_from(options.number("window", 32)?)?.max(1);
    let partitions = options.partitions()?;
    let settings = options.settings()?;
    // Every partition must have a leader before the first record.
    Admin::new(&settings)?.all_watermarks(partitions, TIMEOUT)?;

    let tuning = ProducerTuning {
        message_max_bytes: MESSAGE_MAX - 61,
        queue_max_kbytes: window * (chunk + HEADER) / 1024 * 2,
        idempotence: options.number("idempotence", 0)? != 0,
        linger: Duration::from_millis(options.number("linger", 5)?),
    };
    // As many buffers as may be in flight; each comes back with its report.
    let (give_back, buffers) = crossbeam_channel::bounded(window);
    for _ in 0..window {
        give_back.send(Vec::with_capacity(HEADER + chunk))?;
    }
    let unproven = Arc::new(AtomicU64::new(0));
    let on_delivery = {
        let unproven = Arc::clone(&unproven);
        move |delivery: Delivery<()>| {
            if !matches!(delivery.outcome, Outcome::Acknowledged { .. }) {
                unproven.fetch_add(1, Ordering::Relaxed);
            }
            // Has room for every buffer there is.
            let _ = give_back.try_send(delivery.value);
        }
    };
    let producer = Producer::new(&settings, &tuning, Box::new(on_delivery))?;
    let started = Instant::now();
    let (mut at, mut partition) = (0, 0);
    while at < size {
        let mut buffer = buffers.recv()?;
        let length = u64::try_from(chunk)?.min(size - at);
        buffer.resize(HEADER + usize::try_from(length)?, 0);
        buffer[..8].copy_from_slice(&at.to_le_bytes());
        buffer[8..HEADER].copy_from_slice(&length.to_le_bytes());
        file.read_exact_at(&mut buffer[HEADER..], at)?;
        producer.send(partition, &[], buffer, ()).map_err(|rejected| rejected.error)?;
        at += length;
        partition = (partition + 1) % partitions;
    }
    if !producer.flush(TIMEOUT) {
        return Err(format!("{} records not reported", producer.in_flight()).into());
    }
    if unproven.load(Ordering::Relaxed) > 0 {
        return Err(format!("{} records not acknowledged", unproven.load(Ordering::Relaxed)).into());
    }
    print_rate("upload", size, started);
    Ok(())
}

fn download(options: &Options) -> Fallible<()> {
    let bytes = options.number("bytes", 0)?;
    let partitions = options.partitions()?;
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(options.text("out")?)?;
    let tuning = ConsumerTuning {
        queued_max_kbytes_total: usize::try_from(options.number("queued", 131_072)?)?,
        fetch_max_bytes: usize::try_from(options.number("fetch", 16 << 20)?)?,
        message_max_bytes: MESSAGE_MAX,
        fetch_interval: Duration::ZERO,
    };
    let positions: Vec<Position> =
        (0..partitions).map(|partition| Position { partition, offset: 0 }).collect();
    let split = if options.number("merged", 0)? != 0 { Split::Merged } else { Split::PerPartition };
    let started = Instant::now();
    let (set, readers) = ConsumerSet::start(&options.settings()?, "bare", &positions, split, &tuning)?;
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .into_iter()
            .map(|reader| scope.spawn(|| write_chunks(reader, &file, bytes, &written)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a reader panicked")?)
    })?;
    file.sync_all()?;
    print_rate("download", bytes, started);
    set.stop(TIMEOUT);
    Ok(())
}

fn write_chunks(mut reader: Reader, file: &File, bytes: u64, written: &AtomicU64) -> Fallible<()> {
    while written.load(Ordering::Relaxed) < bytes {
        match reader.poll(Duration::from_millis(50)) {
            Polled::Record(record) => {
                let value = record.value();
                let header = value.get(..8).ok_or("a record without a header")?;
                let at = u64::from_le_bytes(header.try_into()?);
                file.write_all_at(&value[HEADER..], at)?;
                written.fetch_add(u64::try_from(value.len() - HEADER)?, Ordering::Relaxed);
            }
            Polled::EndOfPartition { .. } | Polled::Nothing => {}
            Polled::OffsetOutOfRange { partition } => {
                return Err(format!("{partition} lost its start").into());
            }
            Polled::Unreadable { message, .. } | Polled::Error { message, .. } => return Err(message.into()),
        }
    }
    Ok(())
}

fn print_rate(what: &str, bytes: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {bytes} bytes in {seconds:.3} s = {:.1} MB/s", bytes as f64 / 1e6 / seconds);
}
