use actix_sandbox::Language;
use crate::support::{sandbox, within};
#[actix::test]
async fn scratch() {
    let (_server, sandbox) = sandbox().await;
    for code in [
        "time timeout -s INT -k 5 1 python3 -c 'while True: pass'; echo rc $?",
        "time timeout -s INT -k 5 1 python3 -c 'import time; time.sleep(100)'; echo rc $?",
        "time timeout -s INT -k 5 1 python3 -c 'import time,faulthandler; faulthandler.dump_traceback_later(3)\ntry: time.sleep(100)\nexcept KeyboardInterrupt: print(9)'; echo rc $?",
        "time timeout -s INT -k 5 1 python3 -c 'import signal,time\ndef f(*a): raise ValueError(1)\nsignal.signal(2,f)\ntry: time.sleep(100)\nexcept ValueError: print(9)'; echo rc $?",
        "time timeout -s INT -k 5 1 python3 -c 'import signal,time\ndef f(*a): raise KeyboardInterrupt\nsignal.signal(2,f)\ntry: time.sleep(100)\nexcept KeyboardInterrupt: print(9)'; echo rc $?",
        "time timeout -s INT -k 5 1 python3 -c 'import signal,time\nsignal.signal(2,signal.default_int_handler)\ntry: time.sleep(100)\nexcept KeyboardInterrupt: print(9)'; echo rc $?",
        "python3 -c 'import signal; print(signal.getsignal(2), signal.pthread_sigmask(0,[]))'; grep Sig /proc/self/status",
    ] {
        let out = within("x", sandbox.run(Language::Bash, code)).await.unwrap();
        println!("=== {code}\n{}\n{}", out.stdout_lossy(), out.stderr_lossy());
    }
}
