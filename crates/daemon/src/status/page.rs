//! The status page for people: one look, no scripts, nothing loaded from elsewhere.
//!
//! What must never happen here: a name from the topic becomes markup.

use std::fmt::Write as _;

use super::{Document, Mode};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}\
table{border-collapse:collapse}td,th{padding:.15em .9em .15em 0;text-align:left}td.n,th.n{text-align:right}\
h2{margin:1.4em 0 .3em;font-size:1.1em}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}";

/// The page.
pub(super) fn render(document: &Document) -> String {
    let mut page = String::with_capacity(4096);
    let mode = if document.mode == Mode::Mpo { "multi-partition" } else { "single-partition" };
    let title = escape(&format!("Streamsend {} {}", document.program, document.name));
    push(
        &mut page,
        format_args!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
             <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{}</p>",
            escape(&document.text)
        ),
    );
    let rows = [
        ("Topic", document.topic.clone()),
        ("Mode", format!("{mode} operation")),
        ("License status", document.license.status.clone()),
        ("Version", document.version.clone()),
        ("Up", format!("{} s", document.uptime_seconds)),
        (
            "Files",
            format!(
                "{} queued, {} under way, {} done, {} failed",
                document.files.queued, document.files.under_way, document.files.done, document.files.failed
            ),
        ),
        ("Bytes", format!("{} done, {} under way", document.bytes.done, document.bytes.under_way)),
    ];
    page.push_str("<table>");
    for (name, value) in rows {
        push(&mut page, format_args!("<tr><th>{name}<td>{}", escape(&value)));
    }
    page.push_str("</table>");
    transfers(&mut page, document);
    partitions(&mut page, document);
    errors(&mut page, document);
    page.push_str("<p><a href=\"/status\">/status</a> <a href=\"/metrics\">/metrics</a>");
    page
}

fn transfers(page: &mut String, document: &Document) {
    if document.transfers.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Under way</h2><table><tr><th>File<th class=n>Bytes<th class=n>Chunks<th class=n>Bytes/s",
    );
    for transfer in document.transfers.iter().take(100) {
        push(
            page,
            format_args!(
                "<tr><td>{}<td class=n>{}<td class=n>{} of {}<td class=n>{}",
                escape(&transfer.path),
                transfer.size_bytes,
                transfer.chunks_done,
                transfer.chunks_total,
                transfer.bytes_per_second
            ),
        );
    }
    page.push_str("</table>");
}

fn partitions(page: &mut String, document: &Document) {
    if document.partitions.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Partitions</h2><table><tr><th class=n>Partition<th class=n>In flight<th class=n>Acknowledged or staged\
         <th class=n>Settled<th class=n>High watermark<th class=n>Lag",
    );
    let show = |value: Option<i64>| value.map_or("–".to_owned(), |value| value.to_string());
    for p in &document.partitions {
        push(
            page,
            format_args!(
                "<tr><td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}",
                p.partition,
                p.in_flight_bytes,
                show(p.acknowledged_offset.or(p.staged_offset)),
                show(p.settled_offset),
                show(p.high_watermark),
                show(p.lag)
            ),
        );
    }
    page.push_str("</table>");
}

fn errors(page: &mut String, document: &Document) {
    if document.errors.is_empty() {
        return;
    }
    page.push_str("<h2>Last errors</h2><table>");
    for error in document.errors.iter().rev().take(20) {
        push(page, format_args!("<tr><td>{}<td>{}", escape(&error.time), escape(&error.message)));
    }
    page.push_str("</table>");
}

fn push(page: &mut String, arguments: std::fmt::Arguments<'_>) {
    page.write_fmt(arguments).expect("writing to a String cannot fail");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorEntry, Partition, Transfer};
    use super::*;

    #[test]
    fn names_do_not_become_markup() {
        let evil = "<script>alert('&\"')</script>";
        let document = Document {
            name: evil.into(),
            text: evil.into(),
            topic: evil.into(),
            transfers: vec![Transfer { path: evil.into(), ..Default::default() }],
            partitions: vec![Partition::default()],
            errors: vec![ErrorEntry { time: evil.into(), message: evil.into() }],
            ..Document::default()
        };
        let page = render(&document);
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 7, "{page}");
    }
}
