//! A filter of system calls under which no network socket can be made.
//!
//! Where the kernel gives an ordinary user no namespaces, as in a restricted pod,
//! it still lets a process renounce system calls for good, itself and all that it
//! starts (seccomp, no_new_privs). What is renounced here are sockets of every
//! family but Unix's, and the ways around that: io_uring, which makes sockets by
//! itself, and reaching into another process of the same user that has one.
//! Everything else is PostgreSQL's to use.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Numbers that x32, the second way to call an x86-64 kernel, adds to its calls.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Calls that are refused whatever they ask for. x32 has numbers of its own for
/// some of them.
const REFUSED: &[i64] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    #[cfg(target_arch = "x86_64")]
    521,
    #[cfg(target_arch = "x86_64")]
    539,
    #[cfg(target_arch = "x86_64")]
    540,
];

/// Calls that are refused unless their first argument is Unix's family.
const UNIX_ONLY: &[i64] = &[libc::SYS_socket, libc::SYS_socketpair];

/// The filter cannot be put in force, or the program cannot be started under it.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel or the architecture has no such filters.
    #[error("no filter of system calls can be put in force here: {0}")]
    Filter(String),
    /// The program cannot be started.
    #[error("{program}: {source}")]
    Program {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// Renounces the network for good and becomes `program`. Returns only when that
/// could not be done.
pub fn become_program(program: &OsStr, arguments: &[OsString]) -> ConfineError {
    if let Err(why) = confine() {
        return ConfineError::Filter(why);
    }
    ConfineError::Program {
        program: program.display().to_string(),
        source: Command::new(program).args(arguments).exec(),
    }
}

fn confine() -> Result<(), String> {
    let program = filter().map_err(|e| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| e.to_string())
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let not_unix = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?;
    let only_unix = vec![SeccompRule::new(vec![not_unix])?];
    let refused = REFUSED.iter().map(|call| (*call, Vec::new()));
    let unix = UNIX_ONLY.iter().map(|call| (*call, only_unix.clone()));
    let calls: Vec<(i64, Vec<SeccompRule>)> = refused.chain(unix).collect();
    #[cfg(target_arch = "x86_64")]
    let calls = {
        let second = calls.iter().map(|(call, rules)| (call + X32, rules.clone()));
        second.chain(calls.iter().cloned()).collect::<Vec<_>>()
    };
    SeccompFilter::new(
        calls.into_iter().collect(),
        SeccompAction::Allow,
        // What a machine without a network says: programs know how to go on.
        SeccompAction::Errno(libc::ENETUNREACH as u32),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixStream;

    /// A thread renounces the network: the rest of the process keeps it.
    #[test]
    fn who_is_confined_makes_unix_sockets_alone() {
        let confined = std::thread::spawn(|| {
            confine().unwrap();
            let kind = |e: io::Error| e.raw_os_error();
            let tcp = TcpListener::bind("127.0.0.1:0").map(drop).map_err(kind);
            let udp = UdpSocket::bind("127.0.0.1:0").map(drop).map_err(kind);
            let six = TcpListener::bind("[::1]:0").map(drop).map_err(kind);
            let refused = Err(Some(libc::ENETUNREACH));
            assert_eq!((tcp, udp, six), (refused, refused, refused));
            UnixStream::pair().unwrap();
            // What it starts is confined with it.
            let child = Command::new("bash")
                .args(["-c", super::super::isolation::SOCKET_SCRIPT])
                .status();
            assert!(child.unwrap().success());
        });
        confined.join().unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap();
        let open = Command::new("bash")
            .args(["-c", super::super::isolation::SOCKET_SCRIPT])
            .status();
        assert!(
            !open.unwrap().success(),
            "an open network passes for a closed one"
        );
    }
}
