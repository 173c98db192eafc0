use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_events::CancelToken;

use super::*;

/// `SHA-256("hello")`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A server on loopback that answers request number `n` with `responses[n]`, and counts requests.
fn serve(responses: Vec<&'static str>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for response in responses {
            let (mut stream, _) = listener.accept().unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    (address, count)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const MISSING: &str = "HTTP/1.1 404 Missing\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhe";

fn client() -> Client {
    Client::new(CancelToken::new())
}

#[test]
fn passing_failures_are_tried_again() {
    let (address, count) = serve(vec![BUSY, BROKEN, OK]);
    assert_eq!(client().get(&address, 100).unwrap(), b"hello");
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn a_refusal_is_final() {
    let (address, count) = serve(vec![MISSING, OK]);
    let error = client().get(&address, 100).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn more_than_the_limit_is_refused() {
    let (address, _) = serve(vec![OK]);
    assert!(matches!(client().get(&address, 4), Err(FetchError::TooLarge { limit: 4, .. })));
}

#[test]
fn downloads_are_verified_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (address, count) = serve(vec![OK, OK]);
    let download = |sha256: &str| Download { url: address.clone(), sha256: sha256.to_owned(), size: Some(5) };
    for _ in 0..2 {
        let path = client().download(&download(HELLO), directory.path(), &|_| ()).unwrap();
        assert_eq!(fs_err::read(path).unwrap(), b"hello");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1, "the second time it is there already");
    let wrong = "0".repeat(64);
    let error = client().download(&download(&wrong), directory.path(), &|_| ()).unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }), "{error}");
    let names: Vec<_> = fs_err::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing of a refused download stays");
}

#[test]
fn a_cancelled_client_stops_waiting() {
    let (address, _) = serve(vec![BUSY; 6]);
    let cancel = CancelToken::new();
    cancel.cancel();
    assert!(matches!(Client::new(cancel).get(&address, 10), Err(FetchError::Cancelled(_))));
}

#[test]
fn the_first_error_stops_a_set_of_downloads() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _) = serve(vec![MISSING]);
    let downloads = vec![Download { url: address, sha256: HELLO.to_owned(), size: None }; 1];
    let outcome: Result<(), FetchError> =
        client().download_all(&downloads, directory.path(), 4, &|_| (), |_, _| Ok(()));
    assert!(outcome.unwrap_err().is_not_found());
}
