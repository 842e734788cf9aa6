//! How the tool's commands reach the broker: the flags they share, over the configuration of a daemon.

use std::path::PathBuf;

use clap::Args;
use daemon::{Exit, Stop, ToolOptions};
use kafka::Settings;

#[derive(Args)]
pub(crate) struct Connection {
    /// Configuration file of either daemon; without it the uploader's usual one if it exists, else the downloader's
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker to ask
    #[arg(long, value_name = "HOST:PORT[,…]")]
    bootstrap_server: Option<String>,
    /// Topic to look at
    #[arg(long, value_name = "T")]
    topic: Option<String>,
}

impl Connection {
    pub fn settings(&self, command: &str) -> Result<Settings, Stop> {
        let options = ToolOptions {
            config: self.config.clone(),
            bootstrap_server: self.bootstrap_server.clone(),
            topic: self.topic.clone(),
            state_directory: None,
        };
        let settings = daemon::load_common_for_tool(&options)?;
        Ok(Settings {
            properties: settings.client_properties(),
            topic: settings.topic,
            client_id: format!("streamsend-{command}"),
        })
    }
}

/// What the tool makes of a broker's refusal.
pub(crate) fn kafka_stop(error: kafka::Error) -> Stop {
    let exit = match error {
        kafka::Error::InvalidConfig(_) => Exit::Configuration,
        kafka::Error::NotAuthorized(_) => Exit::Permission,
        _ => Exit::Unavailable,
    };
    Stop::new(exit, error.to_string())
}
