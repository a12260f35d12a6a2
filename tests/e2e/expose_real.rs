//! EXPOSE between programs that people use: curl, nginx, git, sha256sum.

use crate::support::client::{Hoody, hoody};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::proc::{Proc, bash};
use crate::support::servers::{Server, file_nginx, nginx, nginx_in};
use crate::support::{Noise, PATIENCE, TempDir, eventually};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const GIB: u64 = 1 << 30;

/// What the kit may need at most while a file of any size passes.
const KIT_RSS_KIB: u64 = 24 * 1024;

#[test]
fn curl_sees_through_the_tunnel_what_it_sees_without() {
    let nginx = file_nginx();
    nginx.dir.write("www/index.html", "<h1>hello</h1>\n");
    nginx.dir.write("www/data.bin", Noise::bytes(5, 3_000_000));
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, nginx.port);
    for (name, args) in [
        ("GET", "/"),
        ("GET of a file", "/data.bin"),
        ("HEAD", "-I /"),
        ("HEAD of a file", "-I /data.bin"),
        ("range", "-r 1000-1999 /data.bin"),
        ("several ranges", "-r 0-9,100-109 /data.bin"),
        ("404", "/none"),
        ("redirect", "/moved"),
        ("POST", "--data-binary some+form=data /post"),
        ("POST of nothing", "-X POST /post"),
        (
            "POST with 100-continue",
            "-H Expect:100-continue --data-binary @DIR/www/data.bin /post",
        ),
        ("gzip", "--compressed /"),
        ("HTTP/1.0", "--http1.0 /"),
        ("two on one connection", "/ --next -s -i /data.bin"),
    ] {
        let through = curl(hoody.port(), args, &nginx);
        let direct = curl(nginx.port, args, &nginx);
        assert_eq!(through, direct, "{name}");
    }
    for (port, name) in [(nginx.port, "direct"), (hoody.port(), "tunnel")] {
        let file = nginx.dir.join("www/data.bin").display().to_string();
        bash(
            60,
            &format!("curl -sSf --max-time 20 -T {file} http://127.0.0.1:{port}/up/{name}"),
        );
        let put = std::fs::read(nginx.dir.join(format!("www/up/{name}"))).expect("PUT made it");
        assert!(put == std::fs::read(&file).expect("it is there"), "{name}");
    }
}

/// curl's whole output, head and body, without what must differ: the date, a multipart boundary,
/// and the words behind a status, which the tunnel does not carry.
fn curl(port: u16, args: &str, nginx: &Server) -> Vec<String> {
    let mut command = Command::new("curl");
    command.args(["-s", "-i", "--max-time", "20"]);
    for word in args.split_whitespace() {
        if word.starts_with('/') {
            command.arg(format!("http://127.0.0.1:{port}{word}"));
        } else {
            command.arg(word.replace("DIR", &nginx.dir.path().display().to_string()));
        }
    }
    let output = command.output().expect("tests/all installs curl");
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_lowercase();
            !matches!(name.as_str(), "date" | "connection") && !line.starts_with("--")
        })
        .map(|line| match line.starts_with("HTTP/1.") {
            true => line.chars().take("HTTP/1.1 200".len()).collect(),
            false => line.to_owned(),
        })
        .map(|line| match line.split_once("boundary=") {
            Some((before, _)) => before.to_owned(),
            None => line.replace(&format!("127.0.0.1:{port}"), "HOST"),
        })
        .map(|line| match line.split_once(": ") {
            // Names of fields have no case, and nginx's redirect names the port it listens on.
            Some((name, value)) if !name.contains(' ') => {
                let value = value.replace(&format!("127.0.0.1:{}", nginx.port), "HOST");
                format!("{}: {value}", name.to_lowercase())
            }
            _ => line,
        })
        .collect();
    // Each hop frames the body itself, so the place of that one field says nothing.
    let (framing, mut lines): (Vec<String>, Vec<String>) = lines
        .into_iter()
        .partition(|line| line.starts_with("content-length: "));
    lines.extend(framing);
    lines.push(format!("exit {:?}", output.status.code()));
    lines
}

#[test]
fn what_a_server_says_of_its_own_address_is_the_visitors() {
    let nginx = nginx(
        "server { listen 127.0.0.1:%PORT%; server_name localhost; root %DIR%/www;\n\
         location / { dav_methods PUT DELETE MOVE COPY; }\n\
         location = /cookie { add_header Set-Cookie \"a=b; Domain=localhost; Path=/\";\n\
         add_header Refresh \"5; url=http://$http_host/b\"; return 204; }\n\
         location = /said { return 200 \"$http_host $http_origin $http_referer\"; }\n\
         location = /elsewhere { return 302 http://localhost:1/; } }",
    );
    nginx.dir.write("www/app/index.html", "here\n");
    let kit = Kit::start();
    for (keeps, flags) in [(false, ""), (true, "--host-header keep")] {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let hoody = Hoody::expose_with(&kit, nginx.port, &flags);
        let public = format!("http://127.0.0.1:{}", hoody.port());
        let local = match keeps {
            true => public.clone(),
            false => format!("http://127.0.0.1:{}", nginx.port),
        };
        let ask = |args: &str| {
            let url = args.replace("PUBLIC", &public);
            bash(20, &format!("curl -s --max-time 10 {url}"))
        };
        let redirect = ask("-o /dev/null -w '%{redirect_url}' PUBLIC/app");
        let own = format!("{public}/app/");
        assert!(redirect == own || keeps, "{redirect} for {own}");
        assert_eq!(
            ask("-o /dev/null -w '%{redirect_url}' PUBLIC/elsewhere"),
            "http://localhost:1/"
        );
        let cookie = ask("-D - PUBLIC/cookie").to_lowercase();
        assert_eq!(
            cookie.contains("set-cookie: a=b; path=/\r"),
            !keeps,
            "{cookie}"
        );
        assert!(
            cookie.contains(&format!("refresh: 5; url={public}/b\r")),
            "{cookie}"
        );
        let said = ask("-H 'Origin: PUBLIC' -e PUBLIC/x?y PUBLIC/said");
        let host = local.trim_start_matches("http://");
        assert_eq!(said, format!("{host} {local} {local}/x?y"));
        let foreign = ask("-H 'Origin: http://evil.example' PUBLIC/said");
        assert_eq!(foreign, format!("{host} http://evil.example "));
        nginx.dir.write("www/a.txt", "moves\n");
        let moved = ask(
            "-o /dev/null -w '%{http_code}' -X MOVE -H 'Destination: PUBLIC/b.txt' PUBLIC/a.txt",
        );
        assert_eq!(moved, "204", "MOVE by an address of the visitor's");
        assert_eq!(ask("PUBLIC/b.txt"), "moves\n");
    }
}

#[test]
fn a_gibibyte_passes_each_way_with_its_hash_and_the_kit_stays_small() {
    let nginx = file_nginx();
    let file = nginx.dir.join("www/big.bin");
    Noise::file(&file, 11, GIB);
    let want = sha256(&format!("cat {}", file.display()));
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, nginx.port);
    let url = format!("http://127.0.0.1:{}", hoody.port());
    let watch = Watch::start(&kit.proc);
    let down = sha256(&format!("curl -sSf --max-time 600 {url}/big.bin"));
    assert_eq!(down, want, "the download's hash");
    let up = file.display();
    bash(
        620,
        &format!("curl -sSf --max-time 600 -T {up} {url}/up.bin && rm {up}"),
    );
    assert_eq!(
        sha256(&format!("cat {}", nginx.dir.join("www/up.bin").display())),
        want
    );
    let stored = nginx.dir.join("www/up.bin");
    let chunked = format!(
        "curl -sSf --max-time 600 -T - -H 'Transfer-Encoding: chunked' {url}/chunked.bin < {}",
        stored.display()
    );
    bash(620, &chunked);
    assert_eq!(
        sha256(&format!(
            "cat {}",
            nginx.dir.join("www/chunked.bin").display()
        )),
        want
    );
    let peak = watch.peak().max(kit.proc.peak_kib());
    println!(
        "kit at 1 GiB down and twice up: peak {peak} KiB, client {} KiB",
        hoody.proc.peak_kib()
    );
    assert!(peak < KIT_RSS_KIB, "the kit needed {peak} KiB");
}

fn sha256(source: &str) -> String {
    bash(620, &format!("{source} | sha256sum"))
        .trim()
        .to_owned()
}

/// Looks at a process's memory while something else happens.
struct Watch {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(proc: &Proc) -> Watch {
        let (peak, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, stopped, path) = (
            peak.clone(),
            stop.clone(),
            format!("/proc/{}/statm", proc.pid()),
        );
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok(statm) = std::fs::read_to_string(&path) else {
                    return;
                };
                let pages = statm
                    .split(' ')
                    .nth(1)
                    .and_then(|pages| pages.parse::<u64>().ok());
                seen.fetch_max(pages.unwrap_or(0) * 4, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Watch { peak, stop }
    }

    fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn git_clones_and_pushes_over_http() {
    let dir = TempDir::new();
    let root = dir.path().display().to_string();
    let exec_path = bash(10, "git --exec-path").trim().to_owned();
    bash(
        180,
        &format!(
            "export HOME={root} GIT_CONFIG_NOSYSTEM=1; cd {root}
             git config --global user.email a@b.c; git config --global user.name e2e
             git config --global init.defaultBranch main
             git config --global --add safe.directory '*'
             git init -q --bare repos.git; git -C repos.git config http.receivepack true
             git init -q seed; cd seed; head -c 20000000 /dev/urandom > blob; git add .
             git commit -qm first; git push -q ../repos.git main"
        ),
    );
    let socket = dir.join("fcgi.sock");
    let mut fcgi = Command::new("fcgiwrap");
    fcgi.arg("-s")
        .arg(format!("unix:{}", socket.display()))
        .env("HOME", &root);
    let _fcgi = Proc::spawn("fcgiwrap", &mut fcgi);
    eventually("fcgiwrap listens", PATIENCE, || {
        UnixStream::connect(&socket).ok()
    });
    let nginx = nginx_in(
        dir,
        &format!(
            "server {{ listen 127.0.0.1:%PORT%; location ~ ^/repos.git(/.*)$ {{\n\
             fastcgi_param SCRIPT_FILENAME {exec_path}/git-http-backend;\n\
             fastcgi_param GIT_PROJECT_ROOT %DIR%; fastcgi_param GIT_HTTP_EXPORT_ALL 1;\n\
             fastcgi_param PATH_INFO $uri; fastcgi_param QUERY_STRING $query_string;\n\
             fastcgi_param REQUEST_METHOD $request_method;\n\
             fastcgi_param CONTENT_TYPE $content_type;\n\
             fastcgi_param CONTENT_LENGTH $content_length; fastcgi_param REMOTE_USER e2e;\n\
             fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;\n\
             fastcgi_param GIT_PROTOCOL $http_git_protocol;\n\
             fastcgi_pass unix:%DIR%/fcgi.sock; }} }}"
        ),
    );
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, nginx.port);
    let url = format!("http://127.0.0.1:{}/repos.git", hoody.port());
    bash(
        270,
        &format!(
            "export HOME={root} GIT_CONFIG_NOSYSTEM=1; cd {root}
             git clone -q {url} copy; cmp seed/blob copy/blob
             cd copy; head -c 10000000 /dev/urandom > second; git add .; git commit -qm second
             git push -q origin main
             git push -q origin main:other
             [ \"$(git rev-parse HEAD)\" = \"$(git -C ../repos.git rev-parse main)\" ]
             git clone -q {url} again; git -C again fsck --no-progress; cmp second again/second"
        ),
    );
}

#[test]
fn a_folder_is_served_without_a_local_port() {
    let dir = TempDir::new();
    dir.write("site/index.html", "<h1>home</h1>");
    dir.write("site/style.css", "body {}");
    dir.write("site/sub/a b.txt", "spaced");
    dir.write("site/data.bin", Noise::bytes(9, 5_000_000));
    dir.write("secret.txt", "secret");
    let site = dir.join("site");
    std::os::unix::fs::symlink(dir.join("secret.txt"), site.join("link.txt")).expect("a link");
    let kit = Kit::start();
    let folder = site.display().to_string();
    let hoody = Hoody::start(&kit, &["serve", &folder, "--container-port", "0"], 1);
    let mut talk = Talk::port(hoody.port());
    let home = talk.get("/");
    assert_eq!((home.status, home.text().as_str()), (200, "<h1>home</h1>"));
    assert!(
        home.field("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    let css = talk.get("/style.css");
    assert!(
        css.field("content-type")
            .is_some_and(|kind| kind.starts_with("text/css"))
    );
    assert_eq!(talk.get("/sub/a%20b.txt").text(), "spaced");
    let listing = talk.get("/sub/");
    assert!(listing.text().contains("a%20b.txt"), "{}", listing.text());
    assert_eq!(talk.get("/none").status, 404);
    for way_out in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/sub/../../secret.txt",
        "/..%2fsecret.txt",
        "/link.txt",
        "//etc/passwd",
        "/%00",
    ] {
        let mut talk = Talk::port(hoody.port());
        let reply = talk.get(way_out);
        assert!(
            matches!(reply.status, 400 | 403 | 404),
            "{way_out}: {}",
            reply.status
        );
        assert!(!reply.text().contains("secret"), "{way_out} leads out");
    }
    let whole = Noise::bytes(9, 5_000_000);
    assert!(talk.get("/data.bin").body == whole);
    talk.say("GET /data.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=1000-1999\r\n\r\n");
    let part = talk.reply(false);
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, &whole[1000..2000])
    );
    assert_eq!(
        part.field("content-range").as_deref(),
        Some("bytes 1000-1999/5000000")
    );
    talk.say("GET /data.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=-10\r\n\r\n");
    assert_eq!(talk.reply(false).body, &whole[whole.len() - 10..]);
    talk.say("GET /data.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=9999999-\r\n\r\n");
    assert_eq!(talk.reply(false).status, 416);
    let modified = talk
        .get("/data.bin")
        .field("last-modified")
        .expect("a date");
    talk.say(format!(
        "GET /data.bin HTTP/1.1\r\nHost: a\r\nIf-Modified-Since: {modified}\r\n\r\n"
    ));
    assert_eq!(talk.reply(false).status, 304);
    talk.say("HEAD /data.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        talk.reply(true).field("content-length").as_deref(),
        Some("5000000")
    );
    talk.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(talk.reply(false).status, 405);
}

#[test]
fn serve_works_on_a_fresh_machine_without_any_url() {
    let dir = TempDir::new();
    dir.write("index.html", "fresh");
    let mut command = hoody();
    command
        .args(["tunnel", "serve", ".", "--json"])
        .current_dir(dir.path());
    let hoody = Hoody::from_command(&mut command, 1);
    // A page elsewhere that made its name lead here by DNS gets nothing.
    let mut talk = Talk::port(hoody.port());
    talk.say("GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
    assert_eq!(talk.reply(false).status, 421);
    let url = hoody.ready[0]["publicUrl"]
        .as_str()
        .expect("an address that answers")
        .to_owned();
    assert_eq!(bash(20, &format!("curl -sSf --max-time 10 {url}")), "fresh");
}
