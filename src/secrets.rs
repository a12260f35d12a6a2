//! Files that hold a token or certificates: read whole but never without bound, and what is unwise
//! about them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::limits::{SECRET_WITHIN, TOKEN_ADVISED};

/// Reads a file of at most `most` bytes of UTF-8. A pipe may take a moment to be written; what
/// never ends, and what nothing comes from, is an error that says so.
pub fn read(path: &Path, most: usize) -> Result<String, String> {
    let told = |error: io::Error| error.to_string();
    let mut file = OpenOptions::new()
        .read(true)
        // Opening a pipe waits for its writer otherwise.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(told)?;
    let is_pipe = file.metadata().map_err(told)?.file_type().is_fifo();
    if is_pipe {
        wait_for_bytes(&file)?;
    }
    let mut bytes = Vec::new();
    let mut space = [0; 4096];
    while bytes.len() <= most {
        match file.read(&mut space) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(space.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_bytes(&file)?,
            Err(error) => return Err(told(error)),
        }
    }
    if bytes.len() > most {
        return Err(format!("it is larger than {most} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

fn wait_for_bytes(file: &File) -> Result<(), String> {
    let mut watched = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = libc::c_int::try_from(SECRET_WITHIN.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one valid entry that lives through the call.
    match unsafe { libc::poll(&mut watched, 1, millis) } {
        0 => Err(format!("nothing came from it within {SECRET_WITHIN:?}")),
        _ => Ok(()),
    }
}

/// What is unwise about a token and the file that it came from, a sentence each. It works.
pub fn advice(token: &str, file: Option<&Path>) -> Vec<String> {
    let mut advice = Vec::new();
    let count = token.chars().count();
    if count < TOKEN_ADVISED {
        advice.push(format!(
            "the token has {count} characters and can be guessed: take {TOKEN_ADVISED} random ones \
             or more"
        ));
    }
    let metadata = |file: &Path| std::fs::metadata(file).ok();
    if let Some(file) = file
        && metadata(file).is_some_and(|metadata| is_open_to_others(&metadata))
    {
        let file = file.display();
        advice.push(format!(
            "other users of this machine may read or change the token file {file}: chmod 600 it"
        ));
    }
    advice
}

fn is_open_to_others(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o066 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("hoody-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn file(&self, name: &str, mode: u32, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn pipe(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn whatever_is_no_small_text_is_an_error_with_its_reason() {
        let dir = Dir::new("secrets");
        assert_eq!(read(&dir.file("a", 0o600, b"hush\n"), 5).unwrap(), "hush\n");
        let refused = |path: &Path| read(path, 5).unwrap_err();
        assert!(refused(&dir.file("b", 0o600, b"hush!\n")).contains("larger than 5 bytes"));
        assert!(refused(Path::new("/dev/zero")).contains("larger than 5 bytes"));
        assert!(refused(&dir.file("c", 0o600, b"\xff\xfe")).contains("UTF-8"));
        assert!(refused(&dir.0).contains("directory"));
        assert!(refused(&dir.0.join("none")).contains("No such file"));
        assert_eq!(read(Path::new("/dev/null"), 5).unwrap(), "");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_not_waited_for_without_end() {
        let dir = Dir::new("pipes");
        let path = dir.pipe("slow");
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
                for part in ["hu", "sh\n"] {
                    std::thread::sleep(std::time::Duration::from_millis(30));
                    io::Write::write_all(&mut pipe, part.as_bytes()).unwrap();
                }
            })
        };
        assert_eq!(read(&path, 100).unwrap(), "hush\n");
        writer.join().unwrap();
        let silent = read(&dir.pipe("silent"), 100).unwrap_err();
        assert!(silent.contains("nothing came"), "{silent}");
    }

    #[test]
    fn what_is_unwise_is_told() {
        let dir = Dir::new("advice");
        let good = "0123456789abcdef";
        let private = dir.file("private", 0o600, b"");
        assert_eq!(advice(good, Some(&private)), Vec::<String>::new());
        assert_eq!(advice(good, None), Vec::<String>::new());
        assert_eq!(
            advice(good, Some(Path::new("/dev/null"))),
            Vec::<String>::new()
        );
        assert!(advice("0123456789abcde", None)[0].contains("15 characters"));
        for mode in [0o640, 0o604, 0o620, 0o602] {
            let said = advice(good, Some(&dir.file("open", mode, b"")));
            assert!(said[0].contains("open: chmod 600"), "{mode:o}: {said:?}");
        }
    }
}
