//! `streamsend license keygen|issue|show`.
//!
//! What must never happen here: a vendor key that is readable by others even for a moment, is overwritten, or is printed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use daemon::{Exit, Stop};
use jiff::{SignedDuration, Timestamp};
use license::{Invalid, License, MULTI_PARTITION, Terms, VendorKey, VendorSecret};

use crate::out::Out;

/// A vendor key file is one line; whatever is longer is something else.
const KEY_FILE_BYTES_MAX: u64 = 4096;

#[derive(Subcommand)]
pub(crate) enum LicenseCommand {
    /// Make a vendor key pair: vendor.key (keep it secret) and vendor.pub
    Keygen {
        /// Folder for both files; made if missing, existing keys are never overwritten
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Sign a licence
    Issue(Issue),
    /// Say what a licence contains and whether it holds; exit 78 if it does not
    Show {
        /// The licence key
        file: PathBuf,
        /// Vendor key to check it against (the line in vendor.pub); needed unless one was built in
        #[arg(long, value_name = "BASE64")]
        public_key: Option<String>,
    },
}

#[derive(Args)]
pub(crate) struct Issue {
    /// The vendor's secret key, as made by `license keygen`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Who may use it
    #[arg(long, value_name = "NAME")]
    to: String,
    /// How many days it holds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// When it begins to hold, RFC 3339 such as 2026-05-01T00:00:00Z; now unless given
    #[arg(long, value_name = "TIME")]
    not_before: Option<Timestamp>,
    /// File to write, replaced in one step; `-` is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(command: LicenseCommand, out: &mut Out<'_>) -> Result<(), Stop> {
    match command {
        LicenseCommand::Keygen { out: folder } => keygen(&folder, out),
        LicenseCommand::Issue(what) => issue(&what, Timestamp::now(), out),
        LicenseCommand::Show { file, public_key } => {
            show(&file, public_key.as_deref(), Timestamp::now(), out)
        }
    }
}

fn keygen(folder: &Path, out: &mut Out<'_>) -> Result<(), Stop> {
    let secret = license::keygen().map_err(|error| Stop::new(Exit::Internal, error.to_string()))?;
    fs::create_dir_all(folder).map_err(|error| Stop::io(folder.display(), &error))?;
    let key = folder.join("vendor.key");
    let public = folder.join("vendor.pub");
    // Both or none: a pair of which one half is old would be worse than no pair.
    if public.exists() {
        return Err(exists(&public));
    }
    create_new(&key, 0o600, &secret.to_base64())?;
    create_new(&public, 0o644, &secret.public().to_base64()).inspect_err(|_| {
        // Nobody knows this key yet.
        let _ = fs::remove_file(&key);
    })?;
    out.line(format_args!("wrote {} (secret: it signs licences) and {}", key.display(), public.display()))?;
    out.line(format_args!("public key: {}", secret.public().to_base64()))?;
    out.line("daemons check licences against it by the configuration key license.public_key, or when they were built with")?;
    out.line("STREAMSEND_LICENSE_PUBLIC_KEY set to it")?;
    Ok(())
}

fn create_new(path: &Path, mode: u32, line: &str) -> Result<(), Stop> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Stop::io(path.display(), &error),
    })?;
    writeln!(file, "{line}").and_then(|()| file.sync_all()).map_err(|error| Stop::io(path.display(), &error))
}

fn exists(path: &Path) -> Stop {
    let path = path.display();
    Stop::new(
        Exit::Io,
        format!(
            "{path} exists and is not overwritten: licences signed with it would be lost. Choose another folder"
        ),
    )
}

fn issue(what: &Issue, now: Timestamp, out: &mut Out<'_>) -> Result<(), Stop> {
    let text = read_key_file(&what.key)?;
    let secret = VendorSecret::from_base64(&text).map_err(|error| {
        Stop::new(Exit::Configuration, format!("{}: not a vendor key: {error}", what.key.display()))
    })?;
    let usage = |problem: String| Stop::new(Exit::Usage, problem);
    let not_before = what.not_before.unwrap_or(now);
    let expires = not_before
        .checked_add(SignedDuration::from_hours(24 * i64::from(what.days)))
        .map_err(|_| usage("--not-before and --days together lie beyond the calendar".to_owned()))?;
    let terms = Terms {
        id: None,
        issued_to: what.to.clone(),
        not_before,
        expires,
        features: vec![MULTI_PARTITION.to_owned()],
    };
    let key = license::issue(&secret, &terms).map_err(|error| usage(error.to_string()))?;
    if what.out == Path::new("-") {
        out.line(key)?;
        return Ok(());
    }
    replace(&what.out, &key).map_err(|error| Stop::io(what.out.display(), &error))?;
    out.line(format_args!(
        "wrote {}: for {}, valid from {} until {}",
        what.out.display(),
        what.to,
        shown(not_before),
        shown(expires)
    ))?;
    out.line("a running daemon takes it over on SIGHUP")?;
    Ok(())
}

/// A daemon that reads it meanwhile sees the old licence or the new one, never half of one.
#[expect(
    clippy::disallowed_methods,
    reason = "an operator's file: replaced in one step, and issued again if the power fails"
)]
fn replace(path: &Path, line: &str) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&aside)?;
    let written =
        writeln!(file, "{line}").and_then(|()| file.sync_all()).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&aside);
    }
    written
}

fn read_key_file(path: &Path) -> Result<String, Stop> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Stop::io(path.display(), &error))?;
    Ok(text)
}

fn show(file: &Path, public_key: Option<&str>, now: Timestamp, out: &mut Out<'_>) -> Result<(), Stop> {
    let vendor = match public_key {
        Some(text) => Some(
            VendorKey::from_base64(text)
                .map_err(|error| Stop::new(Exit::Usage, format!("--public-key: {error}")))?,
        ),
        None => license::pinned_vendor_key(),
    };
    // A text that cannot even be read as a licence has nothing to show.
    let claimed = read_claims(file).map_err(|reason| not_valid(file, &reason))?;
    out.line(format_args!("id:         {}", daemon::escape_name(claimed.id.as_bytes())))?;
    out.line(format_args!("issued to:  {}", daemon::escape_name(claimed.issued_to.as_bytes())))?;
    out.line(format_args!("not before: {}", shown(claimed.not_before)))?;
    out.line(format_args!("expires:    {}", shown(claimed.expires)))?;
    out.line(format_args!("features:   {}", daemon::escape_name(claimed.features.join(", ").as_bytes())))?;
    let verdict = match &vendor {
        Some(vendor) => license::check_file(file, Some(vendor), now),
        // Its dates alone can condemn it, and nothing can acquit it.
        None => claimed.check_times(now).map(|()| claimed),
    };
    match verdict {
        Ok(license) if vendor.is_some() => {
            out.line(format_args!("status:     License is valid for {} days", license.days_left(now)))?;
            Ok(())
        }
        Ok(_) => {
            out.line("status:     signature not checked: give the vendor's key with --public-key")?;
            Ok(())
        }
        Err(reason) => Err(not_valid(file, &reason)),
    }
}

fn read_claims(file: &Path) -> Result<License, Invalid> {
    let unreadable = |error: io::Error| Invalid::Unreadable { path: file.into(), error: error.to_string() };
    let mut bytes = Vec::new();
    let limit = license::KEY_TEXT_BYTES_MAX as u64 + 1;
    fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    license::parse_unverified(&String::from_utf8_lossy(&bytes))
}

fn not_valid(file: &Path, reason: &Invalid) -> Stop {
    let exit = if matches!(reason, Invalid::Unreadable { .. }) { Exit::Io } else { Exit::Configuration };
    Stop::new(exit, format!("{}: License is not valid: {reason}", file.display()))
}

fn shown(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
