use super::*;

struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> (Self, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine { root: dir.path().to_owned() };
        let fake = Self(dir);
        fake.put("sys/block/nbd0/size", "0\n");
        fake.put("sys/block/nbd0/dev", "43:0\n");
        (fake, machine)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.path().join(path)).unwrap()
    }
}

const NBD0: Device = Device(0);

#[track_caller]
fn used_by(machine: &Machine) -> String {
    let err = machine.refuse_used(NBD0).unwrap_err();
    assert_eq!(err.kind(), Kind::Busy);
    err.line()
}

#[test]
fn a_device_with_a_server_has_a_pid_and_a_size() {
    let (fake, machine) = Fake::new();
    assert!(machine.is_free(NBD0) && !machine.is_connected(NBD0) && machine.backend(NBD0).is_none());
    assert!(machine.is_free(Device(7)), "the driver makes devices that are not there");
    fake.put("sys/block/nbd0/size", "4194304\n");
    assert!(!machine.is_free(NBD0), "it goes, or comes");
    fake.put("sys/block/nbd0/pid", "77\n");
    fake.put("sys/block/nbd0/backend", "coffer att-1\n");
    assert!(machine.is_connected(NBD0) && !machine.is_free(NBD0));
    assert_eq!((machine.size(NBD0), machine.backend(NBD0).as_deref()), (2 << 30, Some("coffer att-1")));
    fake.put("sys/block/nbd0/mq/0/cpu_list", "0");
    fake.put("sys/block/nbd0/mq/1/cpu_list", "1");
    assert_eq!(machine.queues(NBD0), 2);
}

#[test]
fn requests_are_as_large_as_the_device_takes_but_not_larger_than_ours() {
    let (fake, machine) = Fake::new();
    fake.put("sys/block/nbd0/queue/max_hw_sectors_kb", "32768\n");
    machine.tune(NBD0).unwrap();
    assert_eq!(fake.get("sys/block/nbd0/queue/max_sectors_kb"), "1024");
    assert_eq!(fake.get("sys/block/nbd0/queue/read_ahead_kb"), "4096");
    fake.put("sys/block/nbd0/queue/max_hw_sectors_kb", "128\n");
    machine.tune(NBD0).unwrap();
    assert_eq!(fake.get("sys/block/nbd0/queue/max_sectors_kb"), "128");
}

#[test]
fn every_user_of_a_device_is_named() {
    let (fake, machine) = Fake::new();
    fake.put(
        "proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 43:32 / /other rw - ext4 /dev/nbd1 rw\n",
    );
    fake.put("proc/swaps", "Filename Type Size\n/dev/nbd01 partition 1\n");
    fake.put("sys/block/loop0/loop/backing_file", "/dev/nbd0x\n");
    machine.refuse_used(NBD0).unwrap();
    fake.put(
        "proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 43:0 / /mnt/a rw - ext4 /dev/nbd0 rw\n",
    );
    assert!(used_by(&machine).contains("mounted on /mnt/a"));
    fake.put("sys/block/nbd0/nbd0p1/dev", "43:1\n");
    fake.put("proc/self/mountinfo", "30 22 43:1 / /mnt/b rw - ext4 /dev/whatever rw\n");
    assert!(used_by(&machine).contains("mounted on /mnt/b"));
    fake.put("proc/self/mountinfo", "");
    fake.put("proc/swaps", "Filename Type Size\n/dev/nbd0p1 partition 1\n");
    assert!(used_by(&machine).contains("swap"));
    fake.put("proc/swaps", "");
    fake.put("sys/block/nbd0/nbd0p1/holders/dm-3/dev", "");
    assert!(used_by(&machine).contains("dm-3"));
    std::fs::remove_dir_all(fake.0.path().join("sys/block/nbd0/nbd0p1")).unwrap();
    fake.put("sys/block/loop0/loop/backing_file", "/dev/nbd0\n");
    assert!(used_by(&machine).contains("/dev/loop0"));
}
