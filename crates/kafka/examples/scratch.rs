//! scratch
#![allow(clippy::unwrap_used, reason = "scratch")]
use kafka::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
const T: Duration = Duration::from_secs(60);
fn settings(topic: &str) -> Settings {
    let mut properties = BTreeMap::new();
    properties.insert("bootstrap.servers".into(), "127.0.0.1:29092".into());
    for (k, v) in std::env::vars() {
        if let Some(k) = k.strip_prefix("K_") {
            properties.insert(k.replace('_', ".").to_lowercase(), v);
        }
    }
    Settings { properties, topic: topic.into(), client_id: "scratch".into() }
}
fn sh(c: &str) {
    println!("$ {c}");
    std::process::Command::new("bash").arg("-c").arg(c).status().unwrap();
}
fn main() {
    let what = std::env::args().nth(1).unwrap();
    let topic = format!("t{}", std::process::id());
    let s = settings(&topic);
    match what.as_str() {
        "auth" => {
            let a = Admin::new(&s).unwrap();
            let t = Instant::now();
            println!("{:?} {:?}", a.look_up(Duration::from_secs(5)), t.elapsed());
            println!("{:?}", a.watermarks(0, Duration::from_secs(2)));
            println!("complaint {:?}", a.complaint());
            return;
        }
        _ => {}
    }
    let admin = Admin::new(&s).unwrap();
    admin.create_topic(8, 1, &[], T).unwrap();
    let idem = std::env::var("IDEM").is_ok();
    let got = Arc::new(Mutex::new(Vec::<(u64, Outcome)>::new()));
    let g = got.clone();
    let tuning = ProducerTuning {
        message_max_bytes: 1_048_527,
        queue_max_kbytes: 300_000,
        idempotence: idem,
        linger: Duration::from_millis(2),
    };
    let p: Producer<u64> =
        Producer::new(&s, &tuning, Box::new(move |d| g.lock().unwrap().push((d.token, d.outcome)))).unwrap();
    match what.as_str() {
        "kill" => {
            for i in 0..2000u64 {
                let mut v = vec![0; 50_000];
                v[..8].copy_from_slice(&i.to_le_bytes());
                p.send((i % 8) as i32, b"", v, i).unwrap();
                if i == 1000 {
                    sh("kill -9 $(cat /tmp/kb/b/pid)");
                    std::thread::sleep(Duration::from_secs(1));
                    sh("/tmp/kb/start.sh");
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            println!("complaint {:?}", p.complaint());
            println!("flush {}", p.flush(T));
            let g = got.lock().unwrap();
            let ack = g.iter().filter(|x| matches!(x.1, Outcome::Acknowledged { .. })).count();
            println!(
                "reports {} acked {ack} other {:?} complaint {:?}",
                g.len(),
                g.iter().filter(|x| !matches!(x.1, Outcome::Acknowledged { .. })).take(3).collect::<Vec<_>>(),
                p.complaint()
            );
            let t = Instant::now();
            println!("{:?} {:?}", admin.all_watermarks(8, T), t.elapsed());
        }
        "freeze" => {
            p.send(0, b"", vec![1; 1000], 0).unwrap();
            p.flush(T);
            let pos: Vec<_> = (0..8).map(|partition| Position { partition, offset: 0 }).collect();
            let (set, mut rs) = ConsumerSet::start(
                &s,
                "g",
                &pos,
                Split::PerPartition,
                &ConsumerTuning {
                    queued_max_kbytes_total: 65536,
                    fetch_max_bytes: 16 << 20,
                    message_max_bytes: 1_048_588,
                },
            )
            .unwrap();
            while !matches!(rs[0].poll(T), Polled::EndOfPartition { .. }) {}
            sh("kill -STOP $(cat /tmp/kb/b/pid)");
            for i in 1..100 {
                p.send(0, b"", vec![1; 100_000], i).unwrap();
            }
            set.commit(&[Position { partition: 0, offset: 1 }]);
            std::thread::sleep(Duration::from_millis(500));
            let t = Instant::now();
            println!("{:?} {:?}", admin.look_up(Duration::from_secs(2)), t.elapsed());
            let t = Instant::now();
            println!("{:?} {:?}", admin.all_watermarks(8, Duration::from_secs(2)), t.elapsed());
            let t = Instant::now();
            println!(
                "commit_sync {:?} {:?}",
                set.commit_sync(&[Position { partition: 0, offset: 1 }], Duration::from_secs(2)),
                t.elapsed()
            );
            let t = Instant::now();
            println!("committed {:?} {:?}", set.committed(&[0], Duration::from_secs(2)), t.elapsed());
            let t = Instant::now();
            println!(
                "seek {:?} {:?}",
                set.seek(Position { partition: 0, offset: 0 }, Duration::from_secs(2)),
                t.elapsed()
            );
            let t = Instant::now();
            drop(rs);
            set.stop(T);
            println!("stop {:?}", t.elapsed());
            let t = Instant::now();
            drop(p);
            println!("drop producer {:?} reports {}", t.elapsed(), got.lock().unwrap().len());
            let t = Instant::now();
            drop(admin);
            println!("drop admin {:?}", t.elapsed());
            sh("kill -CONT $(cat /tmp/kb/b/pid)");
        }
        "fresh" => {
            for round in 0..4 {
                let s = settings(&format!("{topic}-{round}"));
                let admin = Admin::new(&s).unwrap();
                admin.create_topic(100, 1, &[], T).unwrap();
                let got = Arc::new(Mutex::new(BTreeMap::<&str, u64>::new()));
                let g = got.clone();
                let p: Producer<u64> = Producer::new(
                    &s,
                    &tuning,
                    Box::new(move |d| {
                        *g.lock()
                            .unwrap()
                            .entry(match d.outcome {
                                Outcome::Acknowledged { .. } => "ack",
                                Outcome::Unproven => "unproven",
                                _ => "failed",
                            })
                            .or_default() += 1
                    }),
                )
                .unwrap();
                for i in 0..1000u64 {
                    p.send((i % 100) as i32, b"", vec![1; 100], i).unwrap();
                }
                p.flush(T);
                let stored: i64 = admin.all_watermarks(100, T).unwrap().iter().map(|w| w.high).sum();
                println!("{:?} stored {stored}", got.lock().unwrap());
            }
        }
        "lat" => {
            let (set, mut rs) = ConsumerSet::start(
                &s,
                "g",
                &[Position { partition: 0, offset: 0 }],
                Split::PerPartition,
                &ConsumerTuning {
                    queued_max_kbytes_total: 65536,
                    fetch_max_bytes: 16 << 20,
                    message_max_bytes: 1_048_588,
                },
            )
            .unwrap();
            let mut l = Vec::new();
            for i in 0..200 {
                let t = Instant::now();
                p.send(0, b"", vec![1; 10_000], i).unwrap();
                loop {
                    if let Polled::Record(_) = rs[0].poll(T) {
                        break;
                    }
                }
                l.push(t.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            l.sort();
            println!("p50 {:?} p90 {:?} p99 {:?} max {:?}", l[100], l[180], l[198], l[199]);
            drop(rs);
            set.stop(T);
        }
        "corrupt" => {
            for i in 0..10u64 {
                p.send(0, b"", vec![b'A' + i as u8; 1000], i).unwrap();
                p.flush(T);
            }
            sh(
                "kill $(cat /tmp/kb/b/pid); while kill -0 $(cat /tmp/kb/b/pid) 2>/dev/null; do sleep 0.1; done",
            );
            sh(&format!(
                "python3 - <<'E'\np='/tmp/kb/b/data/{topic}-0/00000000000000000000.log'\nd=bytearray(open(p,'rb').read())\ni=d.find(b'EEEE'); d[i+5]=0x21; open(p,'wb').write(d); print(i,len(d))\nE"
            ));
            sh("/tmp/kb/start.sh; sleep 4");
            let (set, mut rs) = ConsumerSet::start(
                &s,
                "g",
                &[Position { partition: 0, offset: 0 }],
                Split::PerPartition,
                &ConsumerTuning {
                    queued_max_kbytes_total: 65536,
                    fetch_max_bytes: 16 << 20,
                    message_max_bytes: 1_048_588,
                },
            )
            .unwrap();
            let t = Instant::now();
            let mut n = 0;
            while t.elapsed() < Duration::from_secs(30) {
                match rs[0].poll(Duration::from_millis(100)) {
                    Polled::Record(r) => {
                        println!("{:?} record {} {}", t.elapsed(), r.offset(), r.value()[0] as char)
                    }
                    Polled::Unreadable { partition, offset, message } => {
                        n += 1;
                        println!("{:?} unreadable {partition} {offset} {message}", t.elapsed());
                        if n == 4 {
                            println!("{:?}", set.seek(Position { partition, offset: offset + 1 }, T));
                        }
                    }
                    Polled::EndOfPartition { offset, .. } => {
                        println!("end {offset}");
                        if n >= 4 || n == 0 {
                            break;
                        }
                    }
                    Polled::Error { message, .. } => println!("error {message}"),
                    Polled::OffsetOutOfRange { .. } => println!("oor"),
                    Polled::Nothing => {}
                }
            }
        }
        _ => {}
    }
}
