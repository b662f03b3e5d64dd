//! The choice of a back end, with kernels that refuse io_uring for real: a seccomp filter on the test's own thread.
#![allow(unsafe_code)]

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    sock_filter,
};
use quelea_udp_io::{Backend, Choice, Ring, RingConfig};

use super::{Heard, poll_until};

/// Runs `check` on a thread for which `io_uring_setup` fails with `error`, as in a container whose engine forbids it.
fn where_io_uring_fails_with(error: i32, check: impl FnOnce() + Send + 'static) {
    let guarded = move || {
        refuse_io_uring(error).expect("any thread may bind itself");
        check();
    };
    thread::spawn(guarded).join().unwrap();
}

fn refuse_io_uring(error: i32) -> io::Result<()> {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word of what the filter sees.
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        instruction(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | error as u32),
        instruction(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes no pointers; it concerns this thread alone, which ends with the test.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `program` points to live instructions of the given number, which the kernel copies during the call.
    let filtered = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program), 0, 0)
    };
    if promised == 0 && filtered == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_seccomp_filter_makes_auto_fall_back_to_epoll_and_says_so() {
    where_io_uring_fails_with(libc::EPERM, || {
        let choice = Choice::of(Backend::Auto).unwrap();
        assert_eq!(choice.backend, Backend::Epoll);
        assert!(choice.why.contains("io_uring cannot be used: "), "{}", choice.why);
        assert!(choice.why.contains("seccomp") || choice.why.contains("sysctl"), "{}", choice.why);
        // And the ring works.
        let mut ring = Ring::new(&RingConfig::default()).unwrap();
        assert_eq!(ring.backend(), Backend::Epoll);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ring.add_listener(listener).unwrap();
        poll_until(&mut ring, &mut Heard::default(), "the client", |heard| heard.opened.len() == 1);
    });
}

#[test]
fn a_seccomp_filter_makes_forced_io_uring_fail_with_the_reason() {
    where_io_uring_fails_with(libc::EPERM, || {
        let config = RingConfig { backend: Backend::IoUring, ..RingConfig::default() };
        let errors = [Choice::of(Backend::IoUring).unwrap_err(), Ring::new(&config).err().expect("refused")];
        for error in errors {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().starts_with("io_uring cannot be used: "), "{error}");
        }
    });
}

#[test]
fn a_kernel_without_io_uring_is_told_from_one_that_forbids_it() {
    for (error, said) in [(libc::ENOSYS, "this kernel has none"), (libc::EINVAL, "too old")] {
        where_io_uring_fails_with(error, move || {
            assert_eq!(Ring::new(&RingConfig::default()).unwrap().backend(), Backend::Epoll);
            let choice = Choice::of(Backend::Auto).unwrap();
            assert!(choice.why.contains(said), "{}", choice.why);
        });
    }
}

#[test]
fn epoll_is_there_when_it_is_asked_for() {
    let choice = Choice::of(Backend::Epoll).unwrap();
    assert_eq!((choice.backend, choice.why.as_str()), (Backend::Epoll, "it was asked for"));
    let config = RingConfig { backend: choice.backend, ..RingConfig::default() };
    assert_eq!(Ring::new(&config).unwrap().backend(), Backend::Epoll);
}

#[test]
fn auto_takes_io_uring_where_the_kernel_allows_it() {
    let choice = Choice::of(Backend::Auto).unwrap();
    assert_eq!(Ring::new(&RingConfig::default()).unwrap().backend(), choice.backend);
    assert_eq!(choice.backend == Backend::IoUring, Choice::of(Backend::IoUring).is_ok(), "{}", choice.why);
}

/// The kernel interrupts the thread that made an io_uring when that goes. A system call with a timeout would then fail
/// on a thread of the program's that asked for nothing but a probe.
#[test]
fn whoever_asks_for_a_ring_is_not_interrupted_when_it_goes() {
    let waits = UdpSocket::bind("127.0.0.1:0").unwrap();
    waits.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for _ in 0..4 {
        Choice::of(Backend::Auto).unwrap();
        drop(Ring::new(&RingConfig::default()).unwrap());
        assert_eq!(waits.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
