//! Starting a program that takes over our listening sockets, and looking after it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// The variable in which a successor finds the number of its end of the pair.
pub const VARIABLE: &str = "HOODY_TUNNEL_HANDOVER";

/// Starts a program in which `sockets` are open under the same numbers as here, and a socket to
/// this one, whose other end is given.
///
/// # Errors
///
/// Where it cannot be started.
pub fn start(command: &mut Command, sockets: &[BorrowedFd<'_>]) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut open: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    open.push(theirs.as_raw_fd());
    command.env(VARIABLE, theirs.as_raw_fd().to_string());
    // SAFETY: between fork and exec the closure only calls fcntl(2), which is allowed there.
    unsafe {
        command.pre_exec(move || {
            for fd in &open {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok((child, ours))
}

/// The socket to the program that this one succeeds, if it does.
///
/// # Errors
///
/// Where the variable says something else.
pub fn predecessor() -> io::Result<Option<UnixStream>> {
    let Some(number) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let odd = || {
        let why = format!("{VARIABLE} is set by a kit for its successor, and by nobody else");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    let number = number
        .to_str()
        .and_then(|number| number.parse::<RawFd>().ok());
    let fd = number
        .filter(|fd| *fd > 2 && is_socket(*fd))
        .ok_or_else(odd)?;
    // SAFETY: fcntl(2) with numbers on a descriptor that is open, as was just seen.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by contract of the variable nobody else's.
    Ok(Some(UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) })))
}

fn is_socket(fd: RawFd) -> bool {
    // SAFETY: all zeroes is a valid place for fstat(2) to write to; a descriptor that is not open
    // is an error.
    let status = unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut status) == 0).then_some(status)
    };
    status.is_some_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFSOCK)
}

/// Whether a process of this machine holds a socket that listens at `port`: what answers there may
/// be a proxy, or a program in a container, which numbers processes by itself.
///
/// # Errors
///
/// Where that cannot be seen: without `/proc`, or of a process that is somebody else's.
pub fn listens(pid: i32, port: u16) -> io::Result<bool> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(table) => sockets.extend(table.lines().filter_map(|line| listener(line, port))),
            // Without IPv6 there is no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !sockets.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One may have been closed meanwhile.
        let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else {
            continue;
        };
        if sockets
            .iter()
            .any(|socket| target.as_os_str() == socket.as_str())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a link to the socket of a line of `/proc/net/tcp` says, if it listens at `port` (proc(5)).
fn listener(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, at) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let is_it = state == "0A" && u16::from_str_radix(at, 16) == Ok(port);
    is_it.then(|| format!("socket:[{inode}]"))
}

/// Asks a running program for its successor.
///
/// # Errors
///
/// Where there is no such process, or it is somebody else's.
pub fn ask(pid: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes numbers only.
    match unsafe { libc::kill(pid, libc::SIGUSR2) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a container or a namespace ends with this process.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// For the first process of a container, which gets the children of all others whose parents have
/// gone: they leave nothing behind when they end.
///
/// # Errors
///
/// Where the system refuses.
pub fn forget_children() -> io::Result<()> {
    on_childs_end(libc::SA_NOCLDWAIT)
}

fn on_childs_end(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction: the default way, and no signal blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = flags;
    // SAFETY: the pointer describes `action`, which lives through the call; the old one is not
    // asked for.
    match unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// For the first process of a container, whose end would end all others: passes signals on to them
/// and waits until the last of them has ended. Gives how the last one did.
pub fn look_after_others() -> i32 {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2] {
        let pass_on = pass_on as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler only calls kill(2), which is allowed in one.
        unsafe { libc::signal(signal, pass_on) };
    }
    // From here on it is to be known how they end.
    let _ = on_childs_end(0);
    let mut code = 0;
    loop {
        let mut status = 0;
        // SAFETY: the pointer describes `status`, which lives through the call.
        match unsafe { libc::waitpid(-1, &raw mut status, 0) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return code,
            _ if libc::WIFEXITED(status) => code = libc::WEXITSTATUS(status),
            _ => code = 128 + libc::WTERMSIG(status),
        }
    }
}

extern "C" fn pass_on(signal: libc::c_int) {
    // SAFETY: kill(2) is allowed in a handler. From the first process it reaches all others.
    unsafe { libc::kill(-1, signal) };
}
