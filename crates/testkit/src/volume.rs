//! A filesystem of a test's own on a loop device: its power can be cut, it can be unmounted, remounted, filled.
//!
//! What must never happen here: a mount or loop device that outlives its owner, also when a test panics.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use crate::scratch::is_left_by_the_dead;
use crate::wait::{LONG, wait_until};

/// More than any image here takes.
const ENOUGH: &str = "size=600m";

/// What lies on the loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its defaults.
    Ext4,
    /// XFS with its defaults.
    Xfs,
}

impl FileSystem {
    /// As mkfs calls it.
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }

    fn make(self, device: &str, options: &[&str]) -> Result<(), String> {
        run(Command::new(format!("/sbin/mkfs.{}", self.name())).arg("-q").args(options).arg(device))
    }
}

/// Runs a command to its end; what it said is the error.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// A mounted folder that is unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts a tmpfs with these options, such as `size=40m`.
    ///
    /// # Errors
    /// When this process may not.
    pub fn tmpfs(at: &Path, options: &str) -> Result<Mount, String> {
        sweep();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at))?;
        Ok(Mount { at: at.to_path_buf() })
    }

    /// Shows a folder at another place, too.
    ///
    /// # Errors
    /// When this process may not.
    pub fn bind(what: &Path, at: &Path) -> Result<Mount, String> {
        run(Command::new("mount").arg("--bind").arg(what).arg(at))?;
        Ok(Mount { at: at.to_path_buf() })
    }

    /// Changes its options, such as `ro` or `size=80m`.
    ///
    /// # Panics
    /// When that fails.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = run(Command::new("mount").args(["-o", &options]).arg(&self.at));
        done.unwrap_or_else(|why| panic!("remount {}: {why}", self.at.display()));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test left may still have files open.
        let _ = run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

/// A filesystem in an image file, mounted.
#[derive(Debug)]
pub struct Volume {
    filesystem: FileSystem,
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    /// What the image lies on, if it is ours; goes last.
    below: Option<Mount>,
}

impl Volume {
    /// Makes a filesystem of so many MiB (XFS wants 300) in the new file `image` and mounts it at `at`, which must exist.
    ///
    /// # Errors
    /// Why this machine or user cannot.
    pub fn new(filesystem: FileSystem, mib: u64, image: &Path, at: &Path) -> Result<Volume, String> {
        Volume::make(filesystem, &[], mib, image, at, None)
    }

    /// The same in a file on a tmpfs, mounted at `below`, that has only `spare_mib` left for what is written from now on:
    /// writing succeeds, writing back does not. [`Volume::give_room`] ends that.
    ///
    /// # Errors
    /// Why this machine or user cannot.
    pub fn on_too_little(
        filesystem: FileSystem,
        spare_mib: u64,
        below: &Path,
        at: &Path,
    ) -> Result<Volume, String> {
        let tmpfs = Mount::tmpfs(below, ENOUGH)?;
        // Nothing may be discarded or set up later: the tables take their room now.
        let options: &[&str] = match filesystem {
            FileSystem::Ext4 => &[
                "-b",
                "4096",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                "-J",
                "size=4",
                "-N",
                "2048",
            ],
            FileSystem::Xfs => &["-K"],
        };
        let image = below.join("image");
        let volume = Volume::make(filesystem, options, 320, &image, at, Some(tmpfs))?;
        let synced = std::fs::File::open(at).and_then(|file| Ok(rustix::fs::syncfs(file)?));
        synced.map_err(|error| error.to_string())?;
        let used = std::fs::metadata(&image).map_err(|error| error.to_string())?.blocks() * 512;
        volume.resize_below(&format!("size={}", used + (spare_mib << 20)));
        Ok(volume)
    }

    fn resize_below(&self, options: &str) {
        if let Some(below) = &self.below {
            below.remount(options);
        }
    }

    /// Lets everything be written back from now on; what was not is gone.
    ///
    /// # Panics
    /// When that fails.
    pub fn give_room(&self) {
        self.resize_below(ENOUGH);
    }

    fn make(
        filesystem: FileSystem,
        options: &[&str],
        mib: u64,
        image: &Path,
        at: &Path,
        below: Option<Mount>,
    ) -> Result<Volume, String> {
        let file = std::fs::File::create_new(image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        sweep();
        let device = attach(image)?;
        let made = filesystem.make(&device, options);
        detach(&device);
        made?;
        let (image, at) = (image.to_path_buf(), at.to_path_buf());
        let mut volume = Volume { filesystem, image, at, mounted: false, below };
        volume.try_mount()?;
        Ok(volume)
    }

    fn try_mount(&mut self) -> Result<(), String> {
        let device = attach(&self.image)?;
        if self.below.is_some() {
            write_page_by_page(&device)?;
        }
        // The one before may live on, dead, in a mount namespace that somebody else has made meanwhile.
        let options = if self.filesystem == FileSystem::Xfs { "rw,nouuid" } else { "rw" };
        let mounted = run(Command::new("mount").args(["-o", options]).arg(&device).arg(&self.at));
        // From now on the mount alone keeps it.
        detach(&device);
        mounted?;
        self.mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Cuts its power: from now on every access fails, and what no barrier has made durable is gone (`FS_IOC_SHUTDOWN`
    /// without flushing anything).
    ///
    /// # Panics
    /// When that fails.
    pub fn cut(&self) {
        let done = run(Command::new("/usr/sbin/xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at));
        done.unwrap_or_else(|why| panic!("cut the power of {}: {why}", self.at.display()));
    }

    /// Unmounts it; whoever had it open must be gone.
    ///
    /// # Panics
    /// When somebody still uses it.
    pub fn unmount(&mut self) {
        let mut last = Ok(());
        let gone = wait_until(LONG, || {
            last = run(Command::new("umount").arg(&self.at));
            last.is_ok()
        });
        assert!(gone, "unmount {}: {last:?}", self.at.display());
        self.mounted = false;
    }

    /// Mounts it again; the filesystem repairs itself from its journal.
    ///
    /// # Panics
    /// When it cannot.
    pub fn mount(&mut self) {
        // After a lazy unmount the last user may take a moment to let go.
        let mut last = Ok(());
        let mounted = wait_until(LONG, || {
            last = self.try_mount();
            last.is_ok()
        });
        assert!(mounted, "mount {} at {}: {last:?}", self.image.display(), self.at.display());
    }

    /// Writes everything back that can be, unmounts and mounts: what follows sees what is on disk, not what the page cache shows.
    ///
    /// # Panics
    /// Like [`Volume::unmount`] and [`Volume::mount`].
    pub fn remount(&mut self) {
        // Also where another mount namespace has a copy of this mount: nothing may be written there any more. After a
        // power cut both say so.
        let _ = std::fs::File::open(&self.at).and_then(|file| Ok(rustix::fs::syncfs(file)?));
        let _ = run(Command::new("/usr/sbin/xfs_io").args(["-x", "-c", "shutdown -f"]).arg(&self.at));
        self.unmount();
        self.mount();
    }

    /// Changes its mount options, such as `ro`.
    ///
    /// # Errors
    /// What mount says.
    pub fn set(&self, options: &str) -> Result<(), String> {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.at))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a daemon that a failed test left may still have files open.
            let _ = run(Command::new("umount").arg("-l").arg(&self.at));
        }
    }
}

/// Detaches a loop device: now or, if it is in use, with its last user.
fn detach(device: &str) {
    let _ = run(Command::new("losetup").arg("-d").arg(device));
}

/// Unmounts, once, what test processes that were killed have left.
fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        // Later mounts may lie on earlier ones.
        let left: Vec<&str> = places.filter(|place| is_left_by_the_dead(Path::new(place))).collect();
        for place in left.into_iter().rev() {
            let _ = run(Command::new("umount").arg("-l").arg(place));
        }
    });
}

/// Makes a loop device write page by page. A longer request of which the backing store takes the first part only is reported as
/// done by the kernel: a disk that lies, and no daemon can do anything about that.
fn write_page_by_page(device: &str) -> Result<(), String> {
    let name = device.trim_start_matches("/dev/");
    let setting = format!("/sys/block/{name}/queue/max_sectors_kb");
    std::fs::write(&setting, "4").map_err(|error| format!("{setting}: {error}"))
}

/// A free loop device for the image; another process may take the one that was found, so it is tried again.
fn attach(image: &Path) -> Result<String, String> {
    let mut why = String::new();
    for _ in 0..20 {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(image).output();
        match output {
            Ok(output) if output.status.success() => {
                return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            }
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => return Err(format!("losetup: {error}")),
        }
    }
    Err(why)
}
