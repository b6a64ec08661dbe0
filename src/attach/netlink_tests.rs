use super::*;
use proptest::prelude::*;
use std::os::fd::AsFd;

const NBD: Family = Family { id: 0x1f, events: 9 };

/// Parses a request as the kernel would: command and attributes.
fn seen(bytes: &[u8]) -> (u16, u8, Vec<(u16, Vec<u8>)>) {
    match hear(bytes).unwrap().pop().unwrap().what {
        What::Told { kind, command, attributes } => (kind, command, attributes),
        other => panic!("{other:?}"),
    }
}

fn told(kind: u16, command: u8, all: &[DefaultNla]) -> What {
    let mut heard = hear(&message(kind, command, 1, 7, all)).unwrap();
    assert_eq!(heard[0].sequence, 7);
    heard.remove(0).what
}

/// The bytes that Linux expects on a little-endian machine, written by hand from the kernel's headers.
#[test]
#[cfg(target_endian = "little")]
fn a_disconnect_is_these_bytes() {
    let expected = [
        28, 0, 0, 0, // length
        0x1f, 0, 5, 0, // family; request, acknowledge
        3, 0, 0, 0, 0, 0, 0, 0, // sequence, port
        2, 1, 0, 0, // NBD_CMD_DISCONNECT, version 1
        8, 0, 1, 0, 4, 0, 0, 0, // NBD_ATTR_INDEX 4
    ];
    assert_eq!(NBD.disconnect(3, Device(4)), expected);
}

#[test]
fn connect_hands_over_every_socket_and_setting() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let disk = NewDisk { size: 5 << 30, flags: 0x56d, backend: "coffer att-1".to_owned() };
    let (kind, command, all) = seen(&NBD.connect(1, Device(3), &disk, &[a.as_fd(), b.as_fd()]));
    assert_eq!((kind, command), (NBD.id, command::CONNECT));
    let number = |k| u64::from_ne_bytes(find(&all, k).unwrap().try_into().unwrap());
    assert_eq!(find32(&all, 1), Some(3));
    assert_eq!((number(2), number(3), number(4), number(5)), (5 << 30, 4096, 10, 0x56d));
    assert_eq!((number(6), number(8)), (0, 24 * 3600));
    assert_eq!(find(&all, 10), Some(&b"coffer att-1\0"[..]));
    let fds: Vec<_> = attributes(find(&all, 7).unwrap())
        .unwrap()
        .iter()
        .map(|(kind, item)| (*kind, find32(&attributes(item).unwrap(), 1).unwrap()))
        .collect();
    assert_eq!(fds, [a, b].map(|s| (1, s.as_raw_fd() as u32)));
}

#[test]
fn a_new_size_carries_no_socket_and_a_new_socket_no_size() {
    let (_, command, all) = seen(&NBD.resize(1, Device(0), "b", 8192));
    assert_eq!(command, command::RECONFIGURE);
    assert_eq!(all.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [1, 10, 2]);
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let (_, command, all) = seen(&NBD.replace(1, Device(0), "b", socket.as_fd()));
    assert_eq!(command, command::RECONFIGURE);
    assert_eq!(all.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [1, 10, 7]);
}

#[test]
fn the_controllers_answer_names_family_and_group() {
    let group = |name: &str, id| nested(1, &[string(ctrl::GROUP_NAME, name), number32(ctrl::GROUP_ID, id)]);
    let id = DefaultNla::new(ctrl::FAMILY_ID, 0x1fu16.to_ne_bytes().to_vec());
    let groups = nested(ctrl::GROUPS, &[group("other", 8), group(EVENTS, 9)]);
    assert_eq!(told(GENL_ID_CTRL, 1, &[string(ctrl::FAMILY_NAME, "nbd"), id.clone(), groups]).family(), Some(NBD));
    assert_eq!(told(GENL_ID_CTRL, 1, std::slice::from_ref(&id)).family(), Some(Family { events: 0, ..NBD }));
    assert_eq!(told(0x11, 1, &[id]).family(), None, "another family's message");
}

#[test]
fn acknowledgements_failures_and_several_messages_in_one_datagram_are_told_apart() {
    let end = |sequence: u32, code: i32| {
        let mut out = vec![0; 20];
        let mut header = NetlinkHeader::default();
        (header.length, header.message_type, header.sequence_number) = (20, NLMSG_ERROR, sequence);
        header.emit(&mut out[..16]);
        out[16..].copy_from_slice(&code.to_ne_bytes());
        out
    };
    let mut datagram = NBD.message(command::CONNECT, 1, &[number32(1, 3)]);
    datagram.extend(end(1, 0));
    datagram.extend(end(2, -16));
    let heard = hear(&datagram).unwrap();
    assert_eq!(heard.len(), 3);
    assert_eq!(heard[1], Heard { sequence: 1, what: What::End(None) });
    assert_eq!(heard[2], Heard { sequence: 2, what: What::End(Some(16)) });
    assert!(hear(&datagram[..datagram.len() - 1]).is_err(), "cut off");
}

#[test]
fn a_dead_link_and_the_status_name_their_device() {
    let dead = told(NBD.id, command::LINK_DEAD, &[number32(1, 5)]);
    assert_eq!(dead.link_dead(NBD), Some(Device(5)));
    assert_eq!(dead.link_dead(Family { id: 0x20, ..NBD }), None);
    assert_eq!(told(NBD.id, command::STATUS, &[number32(1, 5)]).link_dead(NBD), None);
    let item = |index, connected| nested(1, &[number32(1, index), DefaultNla::new(2, vec![connected])]);
    let status = told(NBD.id, command::STATUS, &[nested(attribute::DEVICE_LIST, &[item(1, 0), item(2, 1)])]);
    assert!(status.says_connected(NBD, Device(2)));
    assert!(!status.says_connected(NBD, Device(1)));
    assert!(!status.says_connected(NBD, Device(3)));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    /// Bytes that resemble a message get further into the parser.
    #[test]
    fn no_message_panics(kind in prop_oneof![Just(GENL_ID_CTRL), Just(NBD.id), Just(NLMSG_ERROR), any::<u16>()],
                         body in prop::collection::vec(0u8..24, 0..120)) {
        let mut bytes = vec![0; 16];
        let mut header = NetlinkHeader::default();
        (header.length, header.message_type) = (16 + body.len() as u32, kind);
        header.emit(&mut bytes);
        bytes.extend(&body);
        read_all(&bytes);
    }

    #[test]
    fn what_is_sent_is_what_is_read(index in any::<u32>(), backend in "[ -~]{0,80}", size in any::<u64>()) {
        let (_, _, all) = seen(&NBD.resize(1, Device(index), &backend, size));
        prop_assert_eq!(find32(&all, 1), Some(index));
        prop_assert_eq!(find(&all, 2), Some(&size.to_ne_bytes()[..]));
        prop_assert_eq!(find(&all, 10).unwrap(), [backend.as_bytes(), b"\0"].concat());
    }
}

fn read_all(bytes: &[u8]) {
    for heard in hear(bytes).unwrap_or_default() {
        let _ = (heard.what.family(), heard.what.link_dead(NBD), heard.what.says_connected(NBD, Device(0)));
    }
}
