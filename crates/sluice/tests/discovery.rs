//! A fleet that is found by a name, whose addresses come and go. Named in docs/reliability.md by the id G2.
//!
//! The router asks the system's own resolver, which asks port 53 of the servers of this machine. So a shim has each
//! thread's resolver ask the server below in their place; what is asked, answered and read is real.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Start, chat, get, load::Replica, question, until, written};
use tokio::net::TcpListener;

/// Has the resolver ask the server at the port that `DNS_PORT` says.
const RESOLVER: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdlib.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
    res_init();
    _res.nscount = 1;
    _res.nsaddr_list[0].sin_family = AF_INET;
    _res.nsaddr_list[0].sin_port = htons(atoi(getenv("DNS_PORT")));
    _res.nsaddr_list[0].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    _res.retrans = 1;
    _res.retry = 1;
    return real(node, service, hints, found);
}
"#;

/// What a server answers to who asks for the addresses of `engines.test`.
#[derive(Clone, Debug)]
enum Says {
    Addresses(Vec<Ipv4Addr>),
    /// That there is no such name.
    Unknown,
    Nothing,
}

/// A name server that knows one name.
struct Dns {
    port: u16,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let (says, asked) = (Arc::new(Mutex::new(Says::Unknown)), Arc::<AtomicUsize>::default());
        let (told, counted) = (Arc::clone(&says), Arc::clone(&asked));
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = answered(&query[..length], &told.lock().unwrap()) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { port, says, asked }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Waits until it has been asked some more, and what it said has been taken.
    fn until_heard(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        until("it is asked again", || before + 4 <= self.asked.load(Ordering::Relaxed));
    }
}

/// The answer to a query of one question, RFC 1035.
fn answered(query: &[u8], says: &Says) -> Option<Vec<u8>> {
    const HEAD: usize = 12;
    let name = b"\x07engines\x04test\0";
    let end = HEAD + query[HEAD..].iter().position(|it| *it == 0)? + 5;
    let question = &query[HEAD..end];
    let is_known = question.starts_with(name);
    let asks_v4 = question[question.len() - 4..] == [0, 1, 0, 1];
    let addresses = match says {
        Says::Nothing => return None,
        Says::Unknown => None,
        Says::Addresses(addresses) => Some(addresses).filter(|_| is_known),
    };
    // No such name: 3. Addresses of another kind: none, and no mistake.
    let code = if addresses.is_some() { 0 } else { 3 };
    let addresses = addresses.filter(|_| asks_v4).cloned().unwrap_or_default();
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend(question);
    for address in addresses {
        // The name again, by where it stands; class and kind; for no time; four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[test]
fn g2_replicas_come_and_go_as_the_addresses_of_their_name_do() {
    let (runtime, folder) = (tokio::runtime::Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let dns = Dns::start();
    let address = |last: u8| Ipv4Addr::new(127, 0, 0, last);
    let (fleet, port) = runtime.block_on(async {
        let first = TcpListener::bind((address(2), 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut fleet = vec![Replica::on(first)];
        for last in [3, 4] {
            fleet.push(Replica::on(TcpListener::bind((address(last), port)).await.unwrap()));
        }
        (fleet, port)
    });

    let (source, shim) = (folder.path().join("resolver.c"), folder.path().join("resolver.so"));
    std::fs::write(&source, RESOLVER).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).args(["-ldl", "-lresolv"]);
    assert!(compiler.status().unwrap().success());
    let text = format!(
        "admission: {{ mode: off }}\nhealth: {{ interval: 200ms }}\npolicy: {{ strategy: round-robin }}\n\
         discovery: {{ dns: 'engines.test:{port}', interval: 100ms }}\n"
    );
    let dns_port = dns.port.to_string();
    let environment = [("LD_PRELOAD", shim.to_str().unwrap()), ("DNS_PORT", &dns_port)];
    let file = written(folder.path(), &text);
    let router = Start { environment: &environment, ..Start::with(&file) }.now();
    let members = || -> BTreeSet<String> {
        let status = get(router.admin, "/admin/replicas").unwrap().json();
        let replicas = status["replicas"].as_array().unwrap().iter();
        let ready = replicas.filter(|it| it["health"] == "ready" && it["leaving"] != true);
        ready.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let named = |lasts: &[u8]| -> BTreeSet<String> {
        lasts.iter().map(|it| format!("{}:{port}", address(*it))).collect()
    };
    let served = |count: usize| {
        for _ in 0..count {
            let answer = chat(router.data, &question("hi", 1, false)).unwrap();
            assert!(answer.is_whole(), "{answer:?}");
        }
    };

    until("it has asked for the name", || 2 < dns.asked.load(Ordering::Relaxed));
    assert!(members().is_empty() && !router.is_ready(), "nobody is known by that name yet");
    for lasts in [&[2][..], &[2, 3], &[2, 3, 4], &[3, 4], &[4, 2]] {
        dns.say(Says::Addresses(lasts.iter().map(|it| address(*it)).collect()));
        until("those that the name means are there", || members() == named(lasts));
        let before: Vec<_> =
            fleet.iter().map(|it| it.seen.requests.load(Ordering::Relaxed)).collect();
        served(12);
        for (last, (replica, before)) in (2..).zip(fleet.iter().zip(before)) {
            let asked = replica.seen.requests.load(Ordering::Relaxed) - before;
            assert_eq!(0 < asked, lasts.contains(&last), "{lasts:?}: 127.0.0.{last} got {asked}");
        }
    }
    // A fleet does not go with its name server.
    for says in [Says::Unknown, Says::Addresses(Vec::new()), Says::Nothing] {
        dns.say(says.clone());
        dns.until_heard();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(members(), named(&[2, 4]), "{says:?}");
        served(4);
    }
    assert!(0 < router.logged("replicas stay"), "and it is said");
    dns.say(Says::Addresses(vec![address(3)]));
    until("the name means another one", || members() == named(&[3]));
    served(4);
}
