//! Real servers in the foreground, each on a free port with a folder of its own.

use super::proc::{Proc, bash, ok};
use super::{PATIENCE, TempDir, eventually, free_port};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

/// A running server.
pub struct Server {
    /// Its process.
    pub proc: Proc,
    /// Where it listens.
    pub port: u16,
    /// Its files.
    pub dir: TempDir,
}

impl Server {
    /// Starts nginx again, after its process has ended, as it was.
    #[track_caller]
    pub fn nginx_again(&mut self) {
        self.proc = Proc::spawn("nginx", &mut nginx_at(&self.dir));
        until_listening("nginx", &mut self.proc, self.port);
    }
}

#[track_caller]
fn until_listening(name: &str, proc: &mut Proc, port: u16) {
    eventually(&format!("{name} listens"), PATIENCE, || {
        assert!(proc.running(), "{name} ended at once\n{}", proc.said());
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
}

#[track_caller]
fn listening(name: &str, mut proc: Proc, port: u16, dir: TempDir) -> Server {
    until_listening(name, &mut proc, port);
    Server { proc, port, dir }
}

/// nginx with these `http { … }` contents; `%PORT%` and `%DIR%` in it are replaced.
#[track_caller]
pub fn nginx(http: &str) -> Server {
    nginx_in(TempDir::new(), http)
}

/// The same with a folder that holds something already.
#[track_caller]
pub fn nginx_in(dir: TempDir, http: &str) -> Server {
    let port = free_port();
    let folder = dir.path().display().to_string();
    let http = http
        .replace("%PORT%", &port.to_string())
        .replace("%DIR%", &folder);
    for name in ["www", "body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        std::fs::create_dir_all(dir.join(name)).expect("a folder for nginx");
    }
    let config = format!(
        "user root;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  default_type application/octet-stream;\n  sendfile on;\n\
         client_max_body_size 0;\n  client_body_temp_path {folder}/body;\n\
         proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n{http}\n}}\n"
    );
    dir.write("nginx.conf", config);
    let proc = Proc::spawn("nginx", &mut nginx_at(&dir));
    listening("nginx", proc, port, dir)
}

/// nginx in the foreground, with the configuration in a folder.
fn nginx_at(dir: &TempDir) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path());
    command.arg("-c").arg(dir.join("nginx.conf"));
    // Debian has it as a module of its own, which must be named before all else.
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let globals = match std::path::Path::new(module).exists() {
        true => format!("daemon off; load_module {module};"),
        false => "daemon off;".to_owned(),
    };
    command.args(["-e", "stderr", "-g", &globals]);
    command
}

/// nginx that serves files and takes them with PUT.
#[track_caller]
pub fn file_nginx() -> Server {
    nginx(
        "server { listen 127.0.0.1:%PORT%; root %DIR%/www; keepalive_requests 100000;\n\
         location / { dav_methods PUT DELETE; create_full_put_path on; }\n\
         location = /post { return 200 \"posted $content_length\\n\"; }\n\
         location = /moved { return 302 /elsewhere; } }",
    )
}

/// A command that runs as this user: some servers refuse to be root.
pub fn as_user(user: &str, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={user}"),
        &format!("--regid={user}"),
        "--clear-groups",
    ]);
    command.arg("--").arg(program).env("HOME", "/tmp");
    command
}

/// PostgreSQL with an empty cluster; user `postgres`, no password.
#[track_caller]
pub fn postgres() -> Server {
    let dir = TempDir::new();
    let port = free_port();
    let bin = newest_postgres();
    let data = dir.join("data");
    let mut init = as_user("postgres", &bin.join("initdb").display().to_string());
    ok(init
        .args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"])
        .arg(&data)
        .current_dir("/"));
    let mut command = as_user("postgres", &bin.join("postgres").display().to_string());
    command
        .arg("-D")
        .arg(&data)
        .args(["-p", &port.to_string(), "-c", "fsync=off"]);
    command.args([
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "full_page_writes=off",
    ]);
    command
        .arg("-c")
        .arg(format!("unix_socket_directories={}", dir.path().display()));
    let server = listening("postgres", Proc::spawn("postgres", &mut command), port, dir);
    eventually("postgres takes queries", PATIENCE, || {
        let query = format!("psql -h 127.0.0.1 -p {port} -U postgres -qtAc 'select 1'");
        let output = super::proc::run(Command::new("bash").args(["-c", &query]));
        output.status.success().then_some(())
    });
    server
}

fn newest_postgres() -> PathBuf {
    let root = "/usr/lib/postgresql";
    let mut all: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("PostgreSQL is installed: tests/all does it")
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|path| path.join("initdb").exists())
        .collect();
    all.sort();
    all.pop()
        .expect("a PostgreSQL server is installed: tests/all does it")
}

/// Redis without persistence.
#[track_caller]
pub fn redis() -> Server {
    let dir = TempDir::new();
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]);
    command
        .args(["--appendonly", "no", "--dir"])
        .arg(dir.path());
    listening("redis", Proc::spawn("redis", &mut command), port, dir)
}

/// An SSH server that lets root in with the key `DIR/key`.
#[track_caller]
pub fn sshd() -> Server {
    let dir = TempDir::new();
    let port = free_port();
    let folder = dir.path().display().to_string();
    bash(
        20,
        &format!(
            "mkdir -p /run/sshd; cd {folder}; ssh-keygen -q -t ed25519 -N '' -f key; \
             ssh-keygen -q -t ed25519 -N '' -f host; cp key.pub allowed; chmod 600 key host"
        ),
    );
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/allowed\n\
         StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n\
         Subsystem sftp internal-sftp\n"
    );
    let path = dir.write("sshd.conf", config);
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(path);
    listening("sshd", Proc::spawn("sshd", &mut command), port, dir)
}

/// A certificate authority and a certificate of it for `names`; tells the folder with `ca.pem`,
/// `cert.pem` and `key.pem`.
#[track_caller]
pub fn certificates(names: &[&str]) -> TempDir {
    let dir = TempDir::new();
    let alt: Vec<String> = names
        .iter()
        .map(|name| match name.parse::<Ipv4Addr>() {
            Ok(_) => format!("IP:{name}"),
            Err(_) => format!("DNS:{name}"),
        })
        .collect();
    dir.write(
        "leaf.ext",
        format!(
            "subjectAltName={}\nextendedKeyUsage=serverAuth\n",
            alt.join(",")
        ),
    );
    bash(
        60,
        &format!(
            "cd {}; exec 2>openssl.log
             curve='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
             openssl req -x509 $curve -keyout ca.key -out ca.pem -days 3 -subj /CN=e2e-ca \\
               -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
             openssl req $curve -keyout key.pem -out leaf.csr -subj /CN=e2e-leaf
             openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \\
               -extfile leaf.ext -out cert.pem",
            dir.path().display()
        ),
    );
    dir
}
