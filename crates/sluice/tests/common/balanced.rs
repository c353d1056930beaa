//! Two routers behind a balancer, of which one after the other is restarted.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{Router, Start, get, until};

/// How often the balancer asks who is ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The routers, and the balancer that asks each whether it is ready.
pub struct Balanced {
    pub ports: Vec<SocketAddr>,
    /// Whom the balancer has found ready.
    pub ready: Arc<Vec<AtomicBool>>,
    config: PathBuf,
    routers: Vec<Router>,
    admins: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    balancer: Option<thread::JoinHandle<()>>,
}

impl Balanced {
    /// Starts both with the configuration in `config`, and waits until they are ready.
    pub fn start(config: PathBuf) -> Self {
        let routers: Vec<Router> = (0..2).map(|_| Start::with(&config).now()).collect();
        routers.iter().for_each(Router::until_ready);
        let ports = routers.iter().map(|it| it.data).collect();
        let ready: Arc<Vec<AtomicBool>> = Arc::new((0..2).map(|_| AtomicBool::new(true)).collect());
        let admins = Arc::new(Mutex::new(routers.iter().map(|it| it.admin).collect::<Vec<_>>()));
        let stop = Arc::new(AtomicBool::new(false));
        let balancer = {
            let (ready, admins) = (Arc::clone(&ready), Arc::clone(&admins));
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seen = admins.lock().unwrap().clone();
                    for (admin, ready) in seen.iter().zip(&*ready) {
                        let is_ready = get(*admin, "/readyz").is_ok_and(|it| it.status == 200);
                        ready.store(is_ready, Ordering::Relaxed);
                    }
                    thread::sleep(LOOK_EVERY);
                }
            })
        };
        Self { ports, ready, config, routers, admins, stop, balancer: Some(balancer) }
    }

    /// Ends the router at `at` by SIGTERM, starts it again on its port, and waits until the balancer takes it.
    pub fn restart(&mut self, at: usize) {
        self.routers[at].signal("TERM");
        let (code, took) = self.routers[at].ended();
        assert_eq!(code, Some(0), "{took:?}");
        let data = Some(self.ports[at]);
        self.routers[at] = Start { data, ..Start::with(&self.config) }.now();
        self.routers[at].until_ready();
        self.admins.lock().unwrap()[at] = self.routers[at].admin;
        until("it is taken again", || self.ready[at].load(Ordering::Relaxed));
    }
}

impl Drop for Balanced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.balancer.take().map(thread::JoinHandle::join);
    }
}
