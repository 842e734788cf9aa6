//! One event as one line, in text or JSON.
//!
//! What must never happen here: an event that becomes two lines, or a line without its time.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::escape::write_escaped;
use crate::settings::LogFormat;

/// What an event says, taken out of it.
#[derive(Debug, Default)]
pub(super) struct Record {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Record {
        let mut record = Record::default();
        event.record(&mut record);
        record
    }

    /// Message and fields as text, without control characters.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(self.message.len() + 16);
        self.write_text(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        write_escaped(out, &self.message, char::is_control)?;
        for (name, value) in &self.fields {
            out.write_char(' ')?;
            write_escaped(out, name, char::is_control)?;
            out.write_char('=')?;
            match value {
                Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                    write!(out, "{value}")?;
                }
                Value::String(text) => write_escaped(out, text, char::is_control)?,
                other => write!(out, "{other}")?,
            }
        }
        Ok(())
    }

    /// The whole line with its end.
    pub(super) fn line(&self, format: LogFormat, time: Timestamp, level: Level, target: &str) -> String {
        let time = show_time(time);
        match format {
            LogFormat::Text => {
                let mut line = format!("{time} {level} ");
                self.write_text(&mut line).expect("writing to a String cannot fail");
                line.push('\n');
                line
            }
            LogFormat::Json => {
                let mut object = Map::new();
                for (name, value) in &self.fields {
                    object.insert((*name).to_owned(), value.clone());
                }
                // Last, so that no field can take their places.
                object.insert("time".into(), time.into());
                object.insert("level".into(), level.as_str().into());
                object.insert("target".into(), target.into());
                object.insert("message".into(), self.message.as_str().into());
                let mut line = Value::Object(object).to_string();
                line.push('\n');
                line
            }
        }
    }

    fn push(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else if !field.name().starts_with("log.") {
            // `log.…` is where a line of the older log interface came from.
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
}

/// `2026-11-24T01:02:03.123Z`.
pub(super) fn show_time(time: Timestamp) -> String {
    format!("{time:.3}")
}
