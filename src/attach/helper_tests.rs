use super::*;
use std::path::Path;

fn place(dir: &Path) -> HelperPlace {
    HelperPlace { dir: dir.join("run"), device: Device(3) }
}

fn state(pid: u32) -> HelperState {
    HelperState { pid, attachment: "att-1".to_owned(), connections: 4, alive: 3, since: Timestamp(5) }
}

#[test]
fn one_helper_has_a_device_and_says_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    assert!(place.last().is_none() && !place.is_held());
    let held = place.hold().unwrap().unwrap();
    assert!(place.hold().unwrap().is_none(), "one at a time");
    assert!(place.is_held() && place.living().is_none(), "it has said nothing yet");
    held.write(&state(1_000_000));
    held.write(&HelperState { alive: 12, ..state(7) });
    held.write(&state(7));
    assert_eq!(place.living(), Some(state(7)));
    drop(held);
    assert!(!place.is_held() && place.living().is_none());
    assert_eq!(place.last(), Some(state(7)), "what the last one did is known");
    let _held = place.hold().unwrap().unwrap();
    assert!(place.last().is_none(), "nobody is told a process id that may be another's");
}

#[test]
fn the_right_goes_to_another_process_with_the_job_and_there_is_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    hand_over(&ours, b"job", place.hold().unwrap().unwrap().0).unwrap();
    assert!(place.is_held(), "it is on its way");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 8];
    rustix::net::recvmsg(&theirs, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let lock = ancillary.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    assert!(place.is_held());
    drop(lock);
    assert!(!place.is_held());
}

#[test]
fn a_helper_that_is_to_end_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let held = place.hold().unwrap().unwrap();
    let mut other = Command::new("sleep").arg("60").stdin(Stdio::from(held.0.try_clone().unwrap())).spawn().unwrap();
    held.write(&state(other.id()));
    drop(held);
    assert!(place.is_held(), "the other process has the lock");
    let held = place.end_helper().unwrap();
    assert!(!other.wait().unwrap().success());
    drop(held);
}
