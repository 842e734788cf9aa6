//! The link does what its weather says, to an echo server that speaks in frames.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Proxy, Weather};
use crate::wait::{LONG, wait_until};

/// A proxy to a server that sends back what it gets.
fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = Proxy::start();
    proxy.lead_to(listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut other = stream.try_clone().expect("a socket can be shared");
                let _ = std::io::copy(&mut stream, &mut other);
                let _ = other.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    proxy
}

/// A frame of Produce, or of Fetch, with this correlation id as the echo will show it.
fn frame(api_key: u16, body: usize) -> Vec<u8> {
    let len = u32::try_from(8 + body).expect("a small frame");
    // The echo's answer has its id where the request has key and version: make both the same.
    let id = u32::from(api_key) << 16 | 9;
    [&len.to_be_bytes()[..], &api_key.to_be_bytes(), &[0, 9], &id.to_be_bytes(), &vec![7; body]].concat()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("a time-out can be set");
    assert!(wait_until(LONG, || proxy.connections() > 0));
    stream
}

fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let mut writer = stream.try_clone().expect("a socket can be shared");
    let bytes = bytes.to_vec();
    std::thread::spawn(move || writer.write_all(&bytes));
}

fn receive(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("everything comes back");
    bytes
}

#[test]
fn bytes_pass_unchanged_also_through_a_slow_and_long_link() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    let large: Vec<u8> = (0..40).flat_map(|n| frame(1, 50_000 + n)).collect();
    send(&mut stream, &large);
    assert_eq!(receive(&mut stream, large.len()), large);
    let weather = Weather { delay: Duration::from_millis(100), rate: Some(200_000), ..Weather::default() };
    proxy.set(weather);
    let begun = Instant::now();
    let some = frame(1, 60_000);
    send(&mut stream, &some);
    assert_eq!(receive(&mut stream, some.len()), some);
    // Not a matter of the machine's speed: it can never be faster than the link.
    assert!(begun.elapsed() >= Duration::from_millis(200 + 300), "{:?}", begun.elapsed());
    // Counted after they were passed on.
    let all = (large.len() + some.len()) as u64;
    assert!(wait_until(LONG, || proxy.passed().1 == all), "{:?} of {all}", proxy.passed());
}

#[test]
fn a_hole_lets_nothing_through_until_it_is_healed() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    proxy.set(Weather { hole: true, ..Weather::default() });
    send(&mut stream, &frame(1, 10));
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out can be set");
    let nothing = stream.read(&mut [0; 1]).expect_err("nothing passes");
    assert!(matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    proxy.heal();
    stream.set_read_timeout(Some(LONG)).expect("a time-out can be set");
    assert_eq!(receive(&mut stream, 22), frame(1, 10));
}

#[test]
fn connections_are_cut_reset_and_refused() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    assert_eq!(proxy.cut(), 1);
    assert_eq!(stream.read(&mut [0; 1]).expect("an orderly end"), 0);
    let mut stream = connect(&proxy);
    assert_eq!(proxy.reset(), 1);
    assert_eq!(stream.read(&mut [0; 1]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    let mut stays = connect(&proxy);
    proxy.set(Weather { refuse: true, ..Weather::default() });
    let refused = TcpStream::connect(proxy.address()).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    send(&mut stays, &frame(1, 3));
    assert_eq!(receive(&mut stays, 15), frame(1, 3));
    proxy.heal();
    connect(&proxy);
}

#[test]
fn an_answer_to_produce_is_lost_and_no_other() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    proxy.lose_produce_answers(1);
    send(&mut stream, &frame(1, 5));
    assert_eq!(receive(&mut stream, 17), frame(1, 5));
    assert_eq!(proxy.answers_lost(), 0);
    send(&mut stream, &frame(0, 5));
    let mut rest = Vec::new();
    // Closed in order or broken off: the answer does not come.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(proxy.answers_lost(), 1);
    let mut stream = connect(&proxy);
    send(&mut stream, &frame(0, 5));
    assert_eq!(receive(&mut stream, 17), frame(0, 5));
}

#[test]
fn an_answer_about_a_topic_loses_its_brokers_and_others_do_not() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    // As an answer: the id is what the request has as key and version, its id no tags and most of the throttle time.
    let request = |brokers: &[u8]| {
        let body = [&[0][..], brokers, b"\x03id\0\0\0\x01\x02topic"].concat();
        let head = [&[0, 3, 0, 9][..], &[0, 3, 0, 9]].concat();
        [&u32::try_from(head.len() + body.len()).expect("small").to_be_bytes()[..], &head, &body].concat()
    };
    let full = request(b"\x03\0\0\0\x01\x02h\0\0\x23\x84\0\0\0\0\0\x02\x02h\0\0\x23\x85\0\0");
    let empty = request(b"\x01");
    proxy.name_no_brokers(1);
    for byte in &full {
        stream.write_all(std::slice::from_ref(byte)).expect("it is read");
    }
    assert_eq!(receive(&mut stream, empty.len()), empty);
    assert_eq!(proxy.no_brokers_named(), 1);
    send(&mut stream, &full);
    assert_eq!(receive(&mut stream, full.len()), full, "one was to be changed");
}
