"""The command in a process of its own that need not load the libraries again: one that has them forks for each run. What it is told, and how it ends, is as if it had been
started: its streams are those given, and the interpreter finishes as ever."""
import json, os, socket, subprocess, sys, tempfile

LIMIT = 200   # as in conftest, which the forked process need not import

class Forked:
    "Runs of the command, each forked from one process that has loaded the libraries"
    def __init__(self, folder):
        self.at,there = socket.socketpair()
        self.at.settimeout(LIMIT)
        self.proc = subprocess.Popen([sys.executable, '-W', 'ignore', __file__, str(there.fileno())], pass_fds=[there.fileno()], cwd=folder)
        there.close()
    def close(self):
        self.at.close()   # which ends the process
        self.proc.wait(LIMIT)
    def run(self, *args, cwd, stdout=None, encoding='utf-8', before=''):
        "What `collab-notes *args` does after `before`: exit code, output, errors. `stdout` is a descriptor, or `None` to read it"
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
            job = dict(args=[str(o) for o in args], cwd=str(cwd), encoding=encoding, before=before)
            socket.send_fds(self.at, [json.dumps(job).encode()], [nothing.fileno(), out.fileno() if stdout is None else stdout, err.fileno()])
            code = int(self.at.recv(100))
            for o in (out,err): o.seek(0)
            return subprocess.CompletedProcess(args, code, out.read(), err.read().decode(encoding))

def child(job, fds):
    "In the fork: streams, folder and arguments as of a process that was started so"
    for k,o in enumerate(fds): os.dup2(o, k)
    os.closerange(3, 1000)
    sys.stdin,sys.stdout,sys.stderr = (open(k, mode, encoding=job['encoding'], errors=errors, closefd=False, buffering=buffering)
                                       for k,mode,errors,buffering in ((0,'r','strict',-1),(1,'w','strict',-1),(2,'w','backslashreplace',1)))
    sys.__stdin__,sys.__stdout__,sys.__stderr__ = sys.stdin,sys.stdout,sys.stderr
    os.chdir(job['cwd'])
    exec(job['before'], {'sys':sys, 'os':os})
    from collab_notes.cli import main
    sys.argv = ['collab-notes', *job['args']]
    sys.exit(main())

def serve(at):
    "Fork for each job, until nobody is there to give one"
    import collab_notes.console, collab_notes.files, collab_notes.lists, collab_notes.plots, collab_notes.training, matplotlib.figure
    while True:
        told,fds,*_ = socket.recv_fds(at, 2**16, 3)
        if not told: return
        if (pid := os.fork())==0: return child(json.loads(told), fds)
        for o in fds: os.close(o)
        at.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())

if __name__=='__main__': serve(socket.socket(fileno=int(sys.argv[1])))
