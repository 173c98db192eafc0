use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lamina_events::CancelToken;

use super::*;
use crate::pace::Limits;

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
fn a_download_without_a_digest_is_named_by_what_comes() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _) = serve(vec![OK]);
    let path = client().download_unknown(&address, directory.path(), &|_| ()).unwrap();
    assert_eq!(path, directory.path().join(HELLO));
    assert_eq!(fs_err::read(path).unwrap(), b"hello");
}

#[test]
fn a_part_is_appended_also_where_a_server_gives_the_whole_or_breaks_off() {
    use std::io::{Read, Seek};
    const PART: &str =
        "HTTP/1.1 206 Part\r\nContent-Length: 3\r\nContent-Range: bytes 1-3/5\r\nConnection: close\r\n\r\nell";
    const OTHER: &str =
        "HTTP/1.1 206 Part\r\nContent-Length: 3\r\nContent-Range: bytes 0-2/5\r\nConnection: close\r\n\r\nhel";
    // What is missing after `BROKEN`.
    const REST: &str =
        "HTTP/1.1 206 Part\r\nContent-Length: 2\r\nContent-Range: bytes 2-3/5\r\nConnection: close\r\n\r\nll";
    let (address, count) = serve(vec![PART, OK, BROKEN, OTHER, REST, MISSING]);
    let (mut file, came) = (tempfile::tempfile().unwrap(), AtomicUsize::new(0));
    let progress = |bytes| {
        came.fetch_add(usize::try_from(bytes).unwrap(), Ordering::SeqCst);
    };
    for _ in 0..3 {
        client().get_part(&address, 1..4, &mut file, &progress).unwrap();
    }
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((&*text, count.load(Ordering::SeqCst)), ("ellellell", 5));
    assert_eq!(came.load(Ordering::SeqCst), 9 + 2, "what was passed over counts, what came twice does not");
    assert!(client().get_part(&address, 1..4, &mut file, &progress).unwrap_err().is_not_found());
    assert_eq!(file.metadata().unwrap().len(), 9);
}

#[test]
fn only_a_part_is_taken_where_that_is_wanted() {
    const PART: &str =
        "HTTP/1.1 206 Part\r\nContent-Length: 3\r\nContent-Range: bytes 1-3/5\r\nConnection: close\r\n\r\nell";
    let (address, count) = serve(vec![PART, OK]);
    let mut file = tempfile::tempfile().unwrap();
    let mut take = || client().get_only_part(&address, 1..4, &mut file, &|_| ()).unwrap();
    assert_eq!([take(), take()], [true, false]);
    assert_eq!((file.metadata().unwrap().len(), count.load(Ordering::SeqCst)), (3, 2));
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

#[test]
fn who_follows_a_download_hears_which_bytes_are_there_and_when_they_count_no_more() {
    const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhe";
    let directory = tempfile::tempdir().unwrap();
    let (address, _) = serve(vec![CUT, OK]);
    let downloads = [Download { url: address, sha256: HELLO.to_owned(), size: Some(5) }];
    let heard = Mutex::new(Vec::new());
    let follow = |index, coming: Coming<'_>| {
        let news = match coming {
            Coming::Bytes(file, length) => {
                let mut bytes = vec![0; usize::try_from(length).unwrap()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                String::from_utf8(bytes).unwrap()
            }
            Coming::Anew => "anew".to_owned(),
        };
        heard.lock().unwrap().push((index, news));
    };
    let arrived = |_, _| Ok::<_, FetchError>(());
    client().download_all_followed(&downloads, directory.path(), 4, &|_| (), &follow, arrived).unwrap();
    assert_eq!(
        heard.into_inner().unwrap(),
        [(0, "he"), (0, "anew"), (0, "hello")].map(|(i, text)| (i, text.to_owned()))
    );
}

/// A server on loopback that sends `pieces`, one each `pause`, to every request, and then keeps the connection open.
fn serve_slowly(pieces: Vec<&'static str>, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            for piece in &pieces {
                if stream.write_all(piece.as_bytes()).is_err() {
                    break;
                }
                std::thread::sleep(pause);
            }
            open.push(stream);
        }
    });
    address
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";

/// Cancels when the server has been asked, and answers what came of the request.
fn cancelled(address: &str) -> Result<Vec<u8>, FetchError> {
    let cancel = CancelToken::new();
    let client = Client::new(cancel.clone());
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
    });
    let outcome = client.get(address, 1000);
    thread.join().unwrap();
    outcome
}

#[test]
fn cancelling_ends_every_wait_for_a_server() {
    // Each of these would go on for a minute and more.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [
        format!("http://{}", silent.local_addr().unwrap()),
        format!("https://{}", silent.local_addr().unwrap()),
        serve_slowly(vec![HEAD, "a"], Duration::ZERO),
        serve_slowly(vec![HEAD].into_iter().chain(["a"; 1000]).collect(), Duration::from_millis(150)),
        // An address that nobody has: packets to it are lost.
        "http://192.0.2.1/".to_owned(),
    ];
    std::thread::scope(|scope| {
        for address in &addresses {
            scope.spawn(move || {
                let outcome = cancelled(address);
                assert!(matches!(outcome, Err(FetchError::Cancelled(_))), "{address}: {outcome:?}");
            });
        }
    });
}

#[test]
fn a_server_that_drips_or_stops_is_given_up() {
    let limits = Limits { window: Duration::from_millis(100), least: 100, total: Duration::from_millis(600) };
    let dripping = serve_slowly(vec![HEAD].into_iter().chain(["a"; 1000]).collect(), Duration::from_millis(30));
    let stopping = serve_slowly(vec![HEAD, "a"], Duration::ZERO);
    for address in [dripping, stopping] {
        let error = client().with_limits(limits).get(&address, 1000).unwrap_err();
        assert!(matches!(error, FetchError::TooLong { .. }), "{error}");
    }
}

#[test]
fn a_whole_download_has_an_end() {
    let limits = Limits { window: Duration::from_mins(1), least: 1, total: Duration::from_millis(300) };
    let address = serve_slowly(vec![HEAD].into_iter().chain(["a"; 1000]).collect(), Duration::from_millis(20));
    let error = client().with_limits(limits).get(&address, 1000).unwrap_err();
    assert!(error.to_string().contains("not complete in time"), "{error}");
}

/// A server on loopback that answers requests one after the other with `responses`, and keeps the requests.
fn play(responses: Vec<Vec<u8>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&requests);
    std::thread::spawn(move || {
        for response in responses {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            kept.lock().unwrap().push(lines.join("\n").to_lowercase());
            let _ = stream.write_all(&response);
        }
    });
    (address, requests)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat()
}

/// A file of two mebibytes, and how it is fetched.
fn large(url: &str) -> (Vec<u8>, Download) {
    let bytes: Vec<u8> = (0..2_u32 << 20).map(|index| (index % 251) as u8).collect();
    let sha256 = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    let download = Download { url: url.to_owned(), sha256, size: Some(bytes.len() as u64) };
    (bytes, download)
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, _) = large("");
    let (half, length) = (bytes.len() / 2, bytes.len());
    let (address, requests) = play(vec![
        answer(&format!("200 OK\r\nContent-Length: {length}"), &bytes[..half]),
        answer(&format!("206 Partial Content\r\nContent-Range: bytes {half}-{}/{length}", length - 1), &bytes[half..]),
    ]);
    let told = std::sync::atomic::AtomicU64::new(0);
    let progress = |news| {
        told.fetch_add(news, Ordering::SeqCst);
    };
    let path = client().download(&large(&address).1, directory.path(), &progress).unwrap();
    assert_eq!(fs_err::read(path).unwrap(), bytes);
    assert_eq!(told.into_inner(), bytes.len() as u64);
    let requests = requests.lock().unwrap();
    assert!(!requests[0].contains("range:") && requests[0].contains("accept-encoding: identity"), "{requests:?}");
    assert!(requests[1].contains(&format!("range: bytes={half}-")), "{requests:?}");
}

#[test]
fn another_process_goes_on_with_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, download) = large("");
    let (half, length) = (bytes.len() / 2, bytes.len());
    let name = directory.path().join(format!(".partial-{}", download.sha256));
    let (address, requests) = play(vec![
        answer(&format!("206 Partial Content\r\nContent-Range: bytes {half}-{}/{length}", length - 1), &bytes[half..]),
        // What is there is not of this file, which shows at its end.
        answer(&format!("206 Partial Content\r\nContent-Range: bytes {half}-{}/{length}", length - 1), &bytes[half..]),
        answer(&format!("200 OK\r\nContent-Length: {length}"), &bytes),
        // A server that knows no ranges.
        answer(&format!("200 OK\r\nContent-Length: {length}"), &bytes),
    ]);
    for (there, made) in
        [(bytes[..half].to_vec(), 1), (vec![7; half], 3), (bytes[..half].to_vec(), 4), (bytes.clone(), 4)]
    {
        fs_err::write(&name, there).unwrap();
        let path = client().download(&large(&address).1, directory.path(), &|_| ()).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), bytes);
        assert_eq!(requests.lock().unwrap().len(), made);
        assert!(!name.exists());
        fs_err::remove_file(path).unwrap();
    }
    // One that another process is writing is left alone.
    let busy = fs_err::File::create(&name).unwrap();
    busy.file().lock().unwrap();
    let (address, _) = play(vec![answer(&format!("200 OK\r\nContent-Length: {length}"), &bytes)]);
    client().download(&large(&address).1, directory.path(), &|_| ()).unwrap();
    assert_eq!(fs_err::read(&name).unwrap(), b"");
}

#[test]
fn a_file_without_a_digest_goes_on_only_with_the_same_version() {
    const OLD: &str = "Last-Modified: Mon, 02 Nov 2026 10:00:00 GMT\r\nDate: Mon, 30 Nov 2026 10:00:00 GMT";
    const NEW: &str = "Last-Modified: Mon, 30 Nov 2026 10:00:00 GMT\r\nDate: Mon, 30 Nov 2026 10:00:01 GMT";
    let (bytes, _) = large("");
    let (half, length) = (bytes.len() / 2, bytes.len());
    let whole = |version: &str| format!("200 OK\r\nContent-Length: {length}\r\n{version}");
    let rest = |version: &str| {
        answer(&format!("206 P\r\nContent-Range: bytes {half}-{}/{length}\r\n{version}", length - 1), &bytes[half..])
    };
    let other = vec![7; length];
    let (tag, weak, another) = ("ETag: \"a\"", "ETag: W/\"a\"", "ETag: \"b\"");
    // What the first answer says, what `If-Range` asks, and what comes then.
    let cases = [
        (tag, Some("if-range: \"a\""), vec![rest(tag)], &bytes),
        (OLD, Some("if-range: mon, 02 nov 2026 10:00:00 gmt"), vec![rest(OLD)], &bytes),
        (tag, Some("if-range: \"a\""), vec![answer(&whole(another), &other)], &other),
        // It does not look at `If-Range`.
        (tag, Some("if-range: \"a\""), vec![rest(another), answer(&whole(another), &other)], &other),
        (weak, None, vec![answer(&whole(weak), &bytes)], &bytes),
        (NEW, None, vec![answer(&whole(NEW), &bytes)], &bytes),
    ];
    for (version, asked, then, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let first = answer(&whole(version), &bytes[..half]);
        let (address, requests) = play(std::iter::once(first).chain(then).collect());
        let path = client().download_unknown(&address, directory.path(), &|_| ()).unwrap();
        assert_eq!(&fs_err::read(&path).unwrap(), expected, "{version}");
        let requests = requests.lock().unwrap();
        assert_eq!(requests[1].lines().find(|line| line.starts_with("if-range")), asked);
        assert_eq!(requests[1].contains(&format!("range: bytes={half}-")), asked.is_some());
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1, "nothing but the file is left");
    }
}

#[test]
fn another_process_goes_on_with_a_file_without_a_digest() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, download) = large("");
    let (half, length) = (bytes.len() / 2, bytes.len());
    let mut responses = vec![answer(&format!("200 OK\r\nContent-Length: {length}\r\nETag: \"a\""), &bytes[..half])];
    responses.extend(vec![Vec::new(); 6]);
    let rest = format!("206 P\r\nETag: \"a\"\r\nContent-Range: bytes {half}-{}/{length}", length - 1);
    responses.push(answer(&rest, &bytes[half..]));
    let (address, requests) = play(responses);
    let error = client().download_unknown(&address, directory.path(), &|_| ()).unwrap_err();
    assert!(matches!(error, FetchError::Network { .. }), "{error}");
    let path = client().download_unknown(&address, directory.path(), &|_| ()).unwrap();
    assert_eq!(path, directory.path().join(download.sha256));
    assert!(requests.lock().unwrap().last().unwrap().contains("if-range: \"a\""));
    assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1, "nothing but the file is left");
}

#[test]
fn more_cuts_than_attempts_do_not_matter_while_something_comes() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, _) = large("");
    let length = bytes.len();
    let pieces = bytes.chunks(length / 8).enumerate().map(|(index, piece)| {
        let begin = index * (length / 8);
        let head = if index == 0 {
            "200 OK".to_owned()
        } else {
            format!("206 P\r\nContent-Range: bytes {begin}-{}/{length}", length - 1)
        };
        answer(&format!("{head}\r\nContent-Length: {}", length - begin), piece)
    });
    let (address, requests) = play(pieces.collect());
    client().download(&large(&address).1, directory.path(), &|_| ()).unwrap();
    assert_eq!(requests.lock().unwrap().len(), 8);
}

#[test]
fn a_server_that_is_gone_in_the_middle_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, download) = large("");
    let (half, length) = (bytes.len() / 2, bytes.len());
    let rest = format!("206 P\r\nContent-Range: bytes {half}-{}/{length}", length - 1);
    let mut responses = vec![answer(&format!("200 OK\r\nContent-Length: {length}"), &bytes[..half])];
    // Who waits beyond the attempts would get the whole.
    responses.extend(vec![Vec::new(); 9]);
    responses.push(answer(&rest, &bytes[half..]));
    let (address, _) = play(responses);
    let error = client().download(&large(&address).1, directory.path(), &|_| ()).unwrap_err();
    assert!(matches!(error, FetchError::Network { attempts: 6, .. }), "{error}");
    let partial = directory.path().join(format!(".partial-{}", download.sha256));
    assert_eq!(fs_err::read(partial).unwrap(), bytes[..half], "what came stays for the next time");
}

#[test]
fn an_endless_body_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _) = play(vec![answer("200 OK", &vec![0; 3 << 20])]);
    let error = client().download(&large(&address).1, directory.path(), &|_| ()).unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { limit, .. } if limit == 2 << 20), "{error}");
    assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_busy_server_says_for_how_long() {
    let soon = httpdate::fmt_http_date(std::time::SystemTime::now());
    let (address, requests) = play(vec![
        answer("429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0", b""),
        answer(&format!("503 Unavailable\r\nRetry-After: {soon}\r\nContent-Length: 0"), b""),
        answer("200 OK\r\nContent-Length: 5", b"hello"),
        answer("429 Too Many Requests\r\nRetry-After: 21600\r\nContent-Length: 0", b""),
    ]);
    assert_eq!(client().get(&address, 100).unwrap(), b"hello");
    let error = client().get(&address, 100).unwrap_err();
    assert!(error.to_string().contains("status 429") && error.to_string().contains("21600"), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 4);
}

#[test]
fn a_redirection_takes_no_login_along() {
    let (elsewhere, requests) = play(vec![answer("200 OK\r\nContent-Length: 5", b"hello")]);
    let (address, own) = play(vec![
        answer("307 Temporary Redirect\r\nLocation: /here\r\nContent-Length: 0", b""),
        answer(&format!("302 Found\r\nLocation: {elsewhere}/there?x=1\r\nContent-Length: 0"), b""),
    ]);
    let client =
        client().with_headers(vec![("authorization", "Basic secret".to_owned()), ("accept", "a/b".to_owned())]);
    assert_eq!(client.get(&address, 100).unwrap(), b"hello");
    let (own, requests) = (own.lock().unwrap(), requests.lock().unwrap());
    assert!(own.iter().all(|request| request.contains("basic secret")), "{own:?}");
    assert!(requests[0].starts_with("get /there?x=1") && requests[0].contains("accept: a/b"), "{requests:?}");
    assert!(!requests[0].contains("secret"), "{requests:?}");
}

#[test]
fn redirections_end() {
    let round = answer("301 Moved\r\nLocation: /\r\nContent-Length: 0", b"");
    let (address, requests) = play(vec![round; 20]);
    let error = client().get(&address, 100).unwrap_err();
    assert!(matches!(error, FetchError::Redirected { .. }), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 11);
    let (address, _) = play(vec![answer("302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0", b"")]);
    let error = client().get(&address, 1 << 20).unwrap_err();
    assert!(error.to_string().contains("leads to `file:///etc/passwd`"), "{error}");
}

#[test]
fn what_is_sent_goes_to_one_address() {
    let (address, requests) = play(vec![
        answer("400 Bad Request\r\nContent-Length: 5", b"hello"),
        answer("307 Temporary Redirect\r\nLocation: /here\r\nContent-Length: 0", b""),
    ]);
    let reply = client().post(&address, &[("x-what", "y".to_owned())], b"a=b", 100).unwrap();
    assert_eq!(reply, Reply { status: 400, bytes: b"hello".to_vec() });
    assert!(requests.lock().unwrap()[0].starts_with("post / ") && requests.lock().unwrap()[0].contains("x-what: y"));
    let error = client().post(&address, &[], b"a=b", 100).unwrap_err();
    assert!(matches!(error, FetchError::Redirected { .. }), "{error}");
}

#[test]
fn what_cannot_be_sent_is_not_said_to_be_fetched() {
    let (address, requests) = play(vec![Vec::new(); 6]);
    let url = format!("{address}/uploads/1?_state=secret");
    let error = client().send(&Message { method: "PUT", url: &url, headers: &[], body: b"hello" }).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with(&format!("sending to `{address}/uploads/1` failed: ")), "{said}");
    assert!(said.contains("(6 attempts)") && !said.contains("secret"), "{said}");
    assert_eq!(requests.lock().unwrap().len(), 6);
}
