use std::io::{Read as _, Write};
use std::os::fd::AsFd;

use super::*;

fn connection() -> (Sender, Receiver) {
    let (left, right) = socket_pair().unwrap();
    (Sender::new(left), Receiver::new(right))
}

#[test]
fn the_header_is_pinned() {
    let header = frame::Header { memory: true, fd_count: 3, control_length: 0x0102_0304, payload_length: 5 };
    assert_eq!(header.encode(), [1, 1, 3, 0, 4, 3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(frame::Header::decode(header.encode()).unwrap(), header);
}

#[test]
fn frames_arrive_in_order_and_whole() {
    let (sender, mut receiver) = connection();
    for index in 0..100_u32 {
        sender.send(format!("{{\"n\":{index}}}").as_bytes(), &index.to_le_bytes(), &[]).unwrap();
    }
    for index in 0..100_u32 {
        let frame = receiver.receive().unwrap().unwrap();
        assert_eq!(frame.control, format!("{{\"n\":{index}}}").into_bytes());
        assert_eq!(frame.payload.into_bytes().unwrap(), index.to_le_bytes());
    }
    drop(sender);
    assert!(receiver.receive().unwrap().is_none());
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_not_waited_for() {
    let (sender, raw) = socket_pair().unwrap();
    Sender::new(sender).send(b"{}", b"payload", &[]).unwrap();
    let mut bytes = [0; HEADER_LENGTH + 9];
    (&raw).read_exact(&mut bytes).unwrap();
    let (mut writer, reader) = socket_pair().unwrap();
    let mut receiver = Receiver::new(reader);
    for _ in 0..2 {
        let (last, others) = bytes.split_last().unwrap();
        for byte in others {
            writer.write_all(&[*byte]).unwrap();
            assert!(matches!(receiver.receive_available().unwrap(), Received::Incomplete));
            assert!(!receiver.has_buffered());
        }
        writer.write_all(&[*last]).unwrap();
        let Received::Frame(frame) = receiver.receive_available().unwrap() else { panic!("the frame is here") };
        assert_eq!((frame.control, frame.payload.into_bytes().unwrap()), (b"{}".to_vec(), b"payload".to_vec()));
    }
    writer.write_all(&[bytes, bytes].concat()).unwrap();
    writer.write_all(&bytes[..3]).unwrap();
    assert!(matches!(receiver.receive_available().unwrap(), Received::Frame(_)));
    assert!(receiver.has_buffered());
    assert!(matches!(receiver.receive_available().unwrap(), Received::Frame(_)));
    assert!(matches!(receiver.receive_available().unwrap(), Received::Incomplete));
    drop(writer);
    assert!(matches!(receiver.receive_available(), Err(WireError::Truncated)));
}

#[test]
fn large_payloads_travel_in_sealed_memory_and_are_forwarded_uncopied() {
    let (sender, mut middle) = connection();
    let (forwarder, mut receiver) = connection();
    let payload = vec![7_u8; MEMORY_THRESHOLD + 1];
    sender.send(b"{}", &payload, &[]).unwrap();
    let frame = middle.receive().unwrap().unwrap();
    let Payload::Memory(fd, _) = &frame.payload else { panic!("expected a memfd") };
    let mut writable = std::fs::File::from(fd.as_fd().try_clone_to_owned().unwrap());
    assert!(writable.write_all(b"x").is_err(), "the memfd must be sealed");
    forwarder.forward(&frame.control, &frame.payload).unwrap();
    let forwarded = receiver.receive().unwrap().unwrap();
    assert_eq!(forwarded.payload.into_bytes().unwrap(), payload);
}

#[test]
fn descriptors_stay_with_their_frame() {
    let (sender, mut receiver) = connection();
    let files: Vec<_> = (0..300).map(|_| tempfile()).collect();
    let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    sender.send(b"a", b"", &borrowed[..2]).unwrap();
    sender.send(b"b", b"", &[]).unwrap();
    sender.send(b"c", b"", &borrowed[2..MAXIMUM_FDS]).unwrap();
    assert!(matches!(sender.send(b"d", b"", &borrowed), Err(WireError::TooManyDescriptors(300))));
    let counts: Vec<_> = (0..3).map(|_| receiver.receive().unwrap().unwrap().fds.len()).collect();
    assert_eq!(counts, [2, 0, MAXIMUM_FDS - 2]);
}

fn tempfile() -> std::os::fd::OwnedFd {
    rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn rubbish_and_truncation_are_errors() {
    let (mut raw, other) = socket_pair().unwrap();
    let mut receiver = Receiver::new(other);
    raw.write_all(&[9; HEADER_LENGTH]).unwrap();
    assert!(matches!(receiver.receive(), Err(WireError::Version(9))));

    let (mut raw, other) = socket_pair().unwrap();
    let mut receiver = Receiver::new(other);
    raw.write_all(&[1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    drop(raw);
    assert!(matches!(receiver.receive(), Err(WireError::Truncated)));

    let (mut raw, other) = socket_pair().unwrap();
    let mut receiver = Receiver::new(other);
    raw.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0]).unwrap();
    assert!(matches!(receiver.receive(), Err(WireError::TooLong(0x11_0000))));

    let (mut raw, other) = socket_pair().unwrap();
    let mut receiver = Receiver::new(other);
    raw.write_all(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(matches!(receiver.receive(), Err(WireError::MissingDescriptors { .. })));
}
