//! The user-space side of `coffer attach`: connections to a real server, up to the point where a kernel takes them
//! over. The kernel's side is tested in a guest (`tools/vm`).

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::api::control;
use coffer::attach::dial::{Dial, Dialed, Server};
use coffer::error::Kind;
use coffer::service::api::{AttachmentInfo, Reply};
use coffer::service::operations::Request;
use coffer::service::operations::{AttachVolume, RenewAttachment};
use common::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use zeroize::Zeroizing;

fn ask(s: &Scratch, request: &Request) -> AttachmentInfo {
    match control::ask(&s.data.join("control.sock"), request, &mut |_| ()).unwrap() {
        Some(Reply::Attachment(att)) => att,
        other => panic!("{other:?}"),
    }
}

fn server_of(att: &AttachmentInfo) -> Server {
    Server { socket: att.socket.clone(), export: Zeroizing::new(att.export.clone()) }
}

/// Does what a kernel does with a connection that it was handed: one request at a time.
struct Kernel(UnixStream);

impl Kernel {
    fn new(dialed: Dialed) -> Self {
        let stream = UnixStream::from(dialed.socket);
        assert_eq!((stream.read_timeout().unwrap(), stream.write_timeout().unwrap()), (None, None));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn ask(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> std::io::Result<u32> {
        self.0.write_all(&raw::request(command, 0, 9, offset, len))?;
        self.0.write_all(payload)?;
        let mut head = [0; 16];
        self.0.read_exact(&mut head)?;
        Ok(u32::from_be_bytes(head[4..8].try_into().unwrap()))
    }

    fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        assert_eq!(self.ask(raw::READ, offset, len, &[]).unwrap(), 0);
        let mut data = vec![0; len as usize];
        self.0.read_exact(&mut data).unwrap();
        data
    }

    fn has_ended(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.0.read(&mut byte), Ok(0) | Err(_))
    }
}

#[test]
fn connections_come_back_after_a_killed_server_and_nobody_else_gets_in() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "web"]);
    let running = s.serve();
    let att = ask(&s, &AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into());
    let mut server = server_of(&att);
    let mut kernels: Vec<_> = (0..4)
        .map(|slot| {
            let dialed = server.dial(slot).unwrap();
            assert_eq!(dialed.facts.size, 4 << 20);
            // Flags, flush, FUA, trim, multi-conn.
            assert_eq!(dialed.facts.flags & 0x12d, 0x12d);
            Kernel::new(dialed)
        })
        .collect();
    let data = noise(3, 8192);
    assert_eq!(kernels[0].ask(raw::WRITE, 4096, 8192, &data).unwrap(), 0);
    assert_eq!(kernels[3].read(4096, 8192), data, "one device");
    running.kill9();
    assert!(kernels.iter_mut().all(Kernel::has_ended));
    assert_eq!(server.dial(0).unwrap_err().kind(), Kind::Unreachable);
    let _running = s.serve();
    let stranger = Nbd::open(&s.socket(), "web").err().unwrap().to_string();
    assert!(stranger.contains(&att.id), "{stranger}");
    let mut kernels: Vec<_> = (0..4).map(|slot| Kernel::new(server.dial(slot).unwrap())).collect();
    assert_eq!(kernels[2].read(4096, 8192), data);
    // A slot has one connection.
    let mut again = Kernel::new(server.dial(2).unwrap());
    assert_eq!(again.read(4096, 8192), data);
    assert!(kernels[2].has_ended());
    assert_eq!(kernels[1].read(4096, 8192), data);
}

#[test]
fn a_look_sees_a_volume_grow_and_holds_nothing() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "web"]);
    let _running = s.serve();
    let att = ask(&s, &AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into());
    let mut server = server_of(&att);
    assert_eq!(server.look().unwrap().size, 4 << 20);
    s.ok(&["volume", "grow", "web", "--size", "6MiB"]);
    assert_eq!(server.look().unwrap().size, 6 << 20);
    s.ok(&["detach", "web"]);
    assert_eq!(server.dial(0).unwrap_err().kind(), Kind::NotFound, "the token went with its attachment");
}

#[test]
fn who_has_lost_its_helper_gets_a_new_token_and_the_old_one_is_void() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "web"]);
    let _running = s.serve();
    let att = ask(&s, &AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into());
    let mut old = server_of(&att);
    let mut kernel = Kernel::new(old.dial(0).unwrap());
    let mut new = server_of(&ask(&s, &RenewAttachment { what: "web".into() }.into()));
    assert!(old.dial(1).is_err());
    kernel.read(0, 4096);
    let mut taken_over = Kernel::new(new.dial(0).unwrap());
    taken_over.read(0, 4096);
    assert!(kernel.has_ended(), "the slot's old connection");
}
