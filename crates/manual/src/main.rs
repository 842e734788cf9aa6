//! Writes the man pages and the shell completions of all three programs, from the very definitions that read their command lines.
//!
//! `streamsend-manual DIR` fills `DIR/man1` with pages and `DIR/bash`, `DIR/zsh` and `DIR/fish` with completions; packaging calls it.
//! What must never happen here: a text about a flag that is not the flag's own.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::{Shell, generate_to};
use daemon::Program;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: streamsend-manual DIR");
        return ExitCode::from(64);
    };
    let commands = Program::ALL.map(daemon::command_line).into_iter().chain([tool::command_line()]);
    for command in commands {
        if let Err(error) = write(&folder, command) {
            eprintln!("streamsend-manual: {}: {error}", folder.display());
            return ExitCode::from(74);
        }
    }
    ExitCode::SUCCESS
}

fn write(folder: &Path, mut command: Command) -> Result<(), Box<dyn Error>> {
    let name = command.get_name().to_owned();
    for (shell, place) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let place = folder.join(place);
        fs::create_dir_all(&place)?;
        generate_to(shell, &mut command, &name, &place)?;
    }
    let pages = folder.join("man1");
    fs::create_dir_all(&pages)?;
    // The build's day and commit would make every build's pages another file.
    let command = command.version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    clap_mangen::generate_to(command, &pages)?;
    Ok(())
}
