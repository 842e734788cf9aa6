//! What a process took of the machine, the bare client as a child, medians.
//!
//! What must never happen here: a figure of a process that is gone, an average where a median was meant.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub(crate) const GIB: f64 = 1_073_741_824.0;

/// What a process took, from its start on or since a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor seconds in the program.
    pub user: f64,
    /// Processor seconds in the kernel.
    pub system: f64,
    /// Processor seconds of the threads that live, to the nanosecond.
    pub living: f64,
    /// Most memory it ever held, bytes.
    pub peak: u64,
}

/// Processor seconds by which the two counts of the same work may differ without a thread that ended: a hundredth cut off of each sort, at both ends.
const COARSE: f64 = 0.04;

impl Usage {
    /// Of a live process.
    pub fn of(pid: u32) -> Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
        // The name in parentheses may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("stat")?.parse::<f64>()?) };
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse()?;
        let living = exact_cpu(pid)?.as_secs_f64();
        Ok(Usage {
            user: ticks(11)? / per_second,
            system: ticks(12)? / per_second,
            living,
            peak: peak * 1024,
        })
    }

    /// The same without the processor time that was spent before, as a start belongs to no file.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            user: self.user - before.user,
            system: self.system - before.system,
            living: self.living - before.living,
            peak: self.peak,
        }
    }

    /// Both sorts of processor seconds.
    pub fn cpu(&self) -> f64 {
        self.user + self.system
    }

    /// The same for work that may be less than a hundredth of a second, the step in which the kernel tells it of a whole process. Of its threads
    /// it tells nanoseconds, as long as they live: where a thread ended on the way, the coarse count is the one that has all.
    pub fn exact_cpu(&self) -> f64 {
        if self.cpu() > self.living + COARSE { self.cpu() } else { self.living }
    }
}

/// Time on a processor to the nanosecond, for processes that hardly run; threads that ended do not count.
pub(crate) fn exact_cpu(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// One measurement: how much per second, and what the process took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub per_second: f64,
    pub usage: Usage,
}

/// The samples of product and yardstick, in the order they were taken.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    pub product: Vec<Sample>,
    pub yardstick: Vec<Sample>,
}

impl Pairs {
    /// A B A B …, after one of each that does not count.
    pub fn measure(
        pairs: usize,
        unit: &str,
        mut product: impl FnMut() -> Result<Sample>,
        mut yardstick: impl FnMut() -> Result<Sample>,
    ) -> Result<Pairs> {
        product()?;
        yardstick()?;
        let mut all = Pairs::default();
        for number in 1..=pairs.max(1) {
            let (a, b) = (product()?, yardstick()?);
            println!(
                "  {number}: {:.0} {unit} against {:.0}, {:.2}; CPU {:.2} s against {:.2}",
                a.per_second,
                b.per_second,
                a.per_second / b.per_second,
                a.usage.cpu(),
                b.usage.cpu(),
            );
            all.product.push(a);
            all.yardstick.push(b);
        }
        Ok(all)
    }

    /// Median speeds of product and yardstick.
    pub fn speeds(&self) -> (f64, f64) {
        let speed = |samples: &[Sample]| median(samples.iter().map(|sample| sample.per_second));
        (speed(&self.product), speed(&self.yardstick))
    }

    /// Median processor seconds, in the program, in the kernel and both.
    pub fn cpu(samples: &[Sample]) -> (f64, f64, f64) {
        let of = |what: fn(&Usage) -> f64| median(samples.iter().map(|sample| what(&sample.usage)));
        (of(|usage| usage.user), of(|usage| usage.system), of(Usage::cpu))
    }

    /// Smallest and largest ratio of a pair.
    pub fn spread(&self) -> (f64, f64) {
        let ratios: Vec<f64> =
            self.product.iter().zip(&self.yardstick).map(|(a, b)| a.per_second / b.per_second).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        (least, ratios.iter().copied().fold(0.0, f64::max))
    }
}

/// The middle one; of an even number the mean of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 50.0)
}

/// The value below which so many percent lie, between neighbours in proportion; NaN of nothing.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, percent: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let place = percent / 100.0 * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (sorted.get(place.floor() as usize), sorted.get(place.ceil() as usize));
    match (below, above) {
        (Some(below), Some(above)) => below + (above - below) * place.fract(),
        _ => f64::NAN,
    }
}

/// The bare client, or any other program that speaks as it does.
pub(crate) struct Bare {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What it took until it was ready.
    before: Usage,
}

impl Bare {
    /// Starts it and waits until it is connected.
    pub fn start(args: &[String]) -> Result<Bare> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the bare client")?;
        let input = child.stdin.take().context("it was piped")?;
        let output = BufReader::new(child.stdout.take().context("it was piped")?);
        let mut bare = Bare { child, input, output, before: Usage::default() };
        bare.expect("ready")?;
        bare.before = Usage::of(bare.child.id())?;
        Ok(bare)
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() != word {
            bail!("the bare client ended or said {line:?} instead of {word:?}");
        }
        Ok(())
    }

    /// Lets it begin.
    pub fn go(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"go\n")?)
    }

    /// Waits until it is done; how long it was, and what it took since it was ready.
    pub fn done(&mut self, begun: Instant) -> Result<(Duration, Usage)> {
        self.expect("done")?;
        let took = begun.elapsed();
        Ok((took, Usage::of(self.child.id())?.since(self.before)))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It holds nothing that a kill could hurt.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Most memory that is touched before a measurement, bytes: what a file of 2 GB takes in the page cache for the broker's log and for the output, and a
/// quarter more.
const TOUCHED_MAX: u64 = 5 << 30;

/// Makes the machine ready for a measurement: nothing that was written so far has still to go to the disk, and the memory that is free is there.
///
/// A virtual machine may give memory that is free back to its host within seconds (free page reporting). Whoever uses it next pays for its return, which
/// can be more than all the work that is measured: 2.0 to 2.7 s/GiB where 0.4 are usual. Deleted files are such memory.
pub(crate) fn settle() {
    rustix::fs::sync();
    let memory = rustix::system::sysinfo();
    // Used by nobody, not for a cache either.
    let free = memory.freeram.saturating_mul(u64::from(memory.mem_unit));
    // A container has less than its machine, and says nothing here when it has no limit.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(u64::MAX);
    let touched = (free / 4 * 3).min(limit / 4).min(TOUCHED_MAX);
    let touched = usize::try_from(touched).unwrap_or(0);
    drop(std::hint::black_box(vec![1_u8; touched]));
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, args: &[&Path]) -> Result<()> {
    let status = Command::new(program).args(args).status().with_context(|| format!("running {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}
