#!/usr/bin/python3
"""The control API as Python's xmlrpc.client sees it, and as bad clients use it.

    api.py VARVED VARVE-DOCS API.MD

Starts a varved of its own on a scratch store. Each test states what holds."""
import concurrent.futures
import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xmlrpc.client

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import agent

VARVED, DOCS, API_MD = sys.argv[1:4]
CONFIG = os.environ.get("VARVE_TEST_CONFIG")  # text of a configuration file


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


class Transport(xmlrpc.client.Transport):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def make_connection(self, host):
        return Connection(self.path)


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="varve-api-")
        cls.run_dir = cls.dir.name + "/run"
        cls.path = cls.run_dir + "/varve.sock"
        store = cls.dir.name + "/store"
        subprocess.run([VARVED, "--init", "--store", store, "--capacity", "1G"], check=True)
        command = [VARVED, "--store", store, "--run", cls.run_dir]
        if CONFIG:
            with open(cls.dir.name + "/conf", "w") as file:
                file.write(CONFIG)
            command += ["--config", file.name]
        cls.daemon = subprocess.Popen(command)
        for _ in range(200):
            if os.path.exists(cls.path):
                break
            time.sleep(0.05)
        else:
            cls.daemon.kill()
            cls.daemon.wait()
            raise AssertionError("varved was not ready within 10 s")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.send_signal(signal.SIGTERM)
        assert cls.daemon.wait(30) == 0, "varved does not stop in order"
        cls.dir.cleanup()

    def setUp(self):
        self.api = self.proxy()

    def tearDown(self):
        self.api("close")()

    def proxy(self):
        return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=Transport(self.path))

    def fault(self, number, call, *args):
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            call(*args)
        self.assertEqual(caught.exception.faultCode, number, caught.exception.faultString)
        return caught.exception.faultString

    def post(self, body, url="/RPC2", method="POST", headers={}):
        connection = Connection(self.path)
        try:
            connection.request(method, url, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    # ---- introspection

    def test_every_method_has_help_and_signatures(self):
        methods = self.api.system.listMethods()
        for name in ("vm.create", "vm.commit", "vm.list", "vm.show", "vm.rename", "vm.remove", "disk.add",
                     "disk.remove", "disk.resize", "store.space", "store.counters", "store.check",
                     "vm.snap", "vm.rollback", "vm.clone", "vm.diff", "disk.diff", "version.list", "version.show",
                     "version.hold", "version.rename", "version.select", "version.remove",
                     "job.status", "job.cancel", "daemon.info", "events.list", "system.multicall"):
            self.assertIn(name, methods)
        for name in methods:
            self.assertTrue(self.api.system.methodHelp(name), name)
            if not name.startswith("system."):
                self.assertIn(self.api.system.methodSignature(name)[0][0],
                              ("boolean", "array", "struct", "int"))
        self.assertEqual(self.api.system.methodSignature("vm.rename"), [["boolean", "string", "string"]])

    def test_the_document_is_that_of_the_tables(self):
        text = subprocess.run([DOCS, "api.md"], check=True, capture_output=True, text=True).stdout
        with open(API_MD) as file:
            self.assertEqual(file.read(), text, "docs/api.md is old: varve-docs api.md > docs/api.md")
        for name in self.api.system.listMethods():
            if not name.startswith("system."):
                self.assertIn("### %s\n" % name, text)

    def test_multicall_answers_each_call_by_itself(self):
        calls = xmlrpc.client.MultiCall(self.api)
        calls.daemon.info()
        calls.vm.show("nobody")
        calls.vm.list()
        results = calls()
        self.assertEqual(results[0]["pid"], self.daemon.pid)
        self.fault(100, lambda: results[1])
        self.assertIsInstance(results[2], list)

    # ---- vms and disks

    def test_life_of_a_vm(self):
        api = self.api
        self.assertTrue(api.vm.create("life", {"size": "1048576", "role": "database"}))
        vm = api.vm.show("life")
        self.assertEqual((vm["name"], vm["role"], vm["provisional"]), ("life", "database", False))
        self.assertEqual(vm["disks"], [{"name": "root", "size": "1048576", "used": "0", "users": 0, "provisional": False}])
        self.fault(101, api.vm.create, "life")
        api.disk.add("life", "data", str(1 << 57))
        self.fault(101, api.disk.add, "life", "data", "4096")
        self.assertIn("has not 4096 bytes", self.fault(117, api.disk.resize, "life", "data", "8192", "4096"))
        self.assertEqual(api.vm.show("life")["disks"][-1]["size"], str(1 << 57))
        api.disk.resize("life", "data", "8192", str(1 << 57))
        self.fault(117, api.disk.resize, "life", "data", "1048576", str(1 << 57))
        self.fault(104, api.disk.resize, "life", "data", "8192", "")
        api.disk.resize("life", "data", "8192")
        api.vm.rename("life", "afterlife")
        self.assertIn("life", self.fault(100, api.vm.show, "life"))
        disks = {d["name"]: d["size"] for d in api.vm.show("afterlife")["disks"]}
        self.assertEqual(disks, {"root": "1048576", "data": "8192"})
        api.disk.remove("afterlife", "data")
        self.assertIn("no disk", self.fault(100, api.disk.remove, "afterlife", "data"))
        api.vm.remove("afterlife")
        self.assertNotIn("afterlife", [v["name"] for v in api.vm.list()])
        self.fault(100, api.vm.remove, "afterlife")

    def test_a_client_that_hangs_up_is_waited_for(self):
        def connect():
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.run_dir + "/nbd.sock")
            s.recv(18, socket.MSG_WAITALL)  # the greeting of NBD; then EXPORT_NAME
            s.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(b"used/root")) + b"used/root")
            s.recv(10, socket.MSG_WAITALL)
            return s
        self.api.vm.create("used", {"size": "65536"})
        client = connect()
        self.fault(102, self.api.vm.remove, "used")
        timer = threading.Timer(0.05, client.close)
        timer.start()
        self.api.vm.remove("used")
        timer.join()

    def test_provisional_until_committed(self):
        self.api.vm.create("prov", {"provisional": True, "size": "4096"})
        self.assertTrue(self.api.vm.show("prov")["provisional"])
        self.api.vm.commit("prov")
        self.assertFalse(self.api.vm.show("prov")["provisional"])
        self.assertFalse(self.api.vm.show("prov")["disks"][0]["provisional"])
        self.assertIn("not provisional", self.fault(101, self.api.vm.commit, "prov"))
        self.api.disk.add("prov", "d", "4096", {"provisional": True})
        disks = {d["name"]: d["provisional"] for d in self.api.vm.show("prov")["disks"]}
        self.assertEqual(disks, {"root": False, "d": True})
        self.api.disk.commit("prov", "d")
        self.assertFalse(any(d["provisional"] for d in self.api.vm.show("prov")["disks"]))
        self.assertIn("not provisional", self.fault(101, self.api.disk.commit, "prov", "d"))
        self.assertIn("no disk", self.fault(100, self.api.disk.commit, "prov", "e"))
        self.api.vm.remove("prov")

    def test_bad_names_change_nothing(self):
        before = self.api.vm.list()
        for name in ("", ".", "..", "a/b", "a b", "a@b", "x" * 65, "ä", "a\nb"):
            self.fault(103, self.api.vm.create, name)
            self.fault(103, self.api.vm.rename, name, "y")
            self.fault(103, self.api.disk.add, "y", name, "4096")
        self.assertEqual(self.api.vm.list(), before)

    def test_bad_sizes_change_nothing(self):
        before = self.api.vm.list()
        for size in ("0", "1", "4095", "4097", "-4096", "10G", "", str(2**57 + 512), str(2**63), str(2**64),
                     "9" * 100, " 4096"):
            self.fault(104, self.api.vm.create, "sz", {"size": size})
        self.assertEqual(self.api.vm.list(), before)

    def test_bad_options_change_nothing(self):
        for options in ({"nope": 1}, {"role": "king"}, {"role": 5}, {"size": 4096}, {"provisional": "yes"},
                        {"disk": "d"}):
            self.fault(105, self.api.vm.create, "opt", options)
        self.fault(100, self.api.vm.show, "opt")
        self.api.vm.create("opt")
        for options in ({"size": "4096"}, {"role disk": "x"}, {"": True}, {"provisional": 1}):
            self.fault(105, self.api.disk.add, "opt", "d", "4096", options)
        self.assertEqual(self.api.vm.show("opt")["disks"], [])
        self.api.vm.remove("opt")

    def test_wrong_types_say_what_is_wanted(self):
        text = self.fault(105, self.api.vm.rename, "a", 5)
        self.assertIn("(string, string)", text)
        self.assertIn("(string, int)", text)
        text = self.fault(105, self.api.version.remove, "a", ["b", "c", 5])
        self.assertIn("argument 2", text)
        self.assertIn("number 3", text)
        self.fault(105, self.api.vm.rename)
        self.fault(105, self.api.vm.list, "x")
        self.fault(105, self.api.job.status, "1")
        self.fault(105, self.api.vm.show, *(["x"] * 40))

    # ---- versions

    def vm(self, name, size="1048576"):
        self.api.vm.create(name, {"size": size})
        self.addCleanup(lambda: self.proxy().vm.remove(name))

    def test_life_of_a_version(self):
        api = self.api
        self.vm("lv")
        self.assertEqual(api.vm.snap("lv", {"version": "a", "note": "one <&> two"}),
                         {"vm": "lv", "name": "a", "consistency": "crash", "warning": ""})
        shown = api.version.show("lv", "a")
        self.assertEqual((shown["note"], shown["used"], shown["exclusive"], shown["shared"], shown["held"]),
                         ("one <&> two", "0", "0", "0", False))
        self.assertRegex(shown["guid"], "^[0-9a-f]{32}$")
        self.assertEqual(shown["disks"], [{"name": "root", "size": "1048576", "used": "0", "users": 0}])
        self.fault(101, api.vm.snap, "lv", {"version": "a"})
        self.fault(100, api.vm.snap, "nobody", {"version": "a"})
        self.fault(106, api.version.show, "lv", "b")
        self.fault(100, api.version.show, "nobody", "b")
        self.fault(106, api.version.hold, "lv", "b", True)
        self.assertTrue(api.version.hold("lv", "a", True))
        self.fault(109, api.version.hold, "lv", "a", True)
        self.fault(107, api.version.remove, "lv", ["a"])
        self.fault(107, api.vm.remove, "lv")
        api.version.hold("lv", "a", False)
        self.fault(109, api.version.hold, "lv", "a", False)
        api.version.rename("lv", "a", "b")
        self.fault(106, api.version.rename, "lv", "a", "c")
        kept = api.vm.rollback("lv", "b")["kept"]
        self.assertRegex(kept, "^before-rollback-")
        self.assertEqual(api.vm.rollback("lv", "b", {"discard": True}), {"kept": "", "disconnected": 0})
        self.assertEqual(api.vm.clone("lv", "b", "lc"), {"vm": "lv", "version": "b"})
        self.assertEqual(api.vm.show("lc")["origin"], "lv@b")
        self.fault(101, api.vm.clone, "lv", "b", "lc")
        api.vm.remove("lc")
        api.vm.clone("lv", "b", "lp", {"provisional": True})
        self.assertTrue(api.vm.show("lp")["provisional"])
        api.vm.remove("lp")
        self.assertEqual(api.version.remove("lv", ["b", kept, "b"]), 2)
        self.assertEqual(api.version.list("lv"), {"versions": [], "next": ""})

    def test_arguments_of_versions(self):
        api = self.api
        self.vm("av")
        self.vm("unrelated")
        for options in ({"nope": 1}, {"version": 5}, {"note": True}, {"quiesce": "perhaps"}, {"timeout": "1"},
                        {"timeout": 0, "quiesce": "auto"}, {"agent": "relative", "quiesce": "auto"},
                        {"note": "x" * 1025}, {"note": "a\tb"}):
            self.fault(105, api.vm.snap, "av", options)
        for name in ("", "a/b", "a@b", "x" * 65, "a..b", ".."):
            self.fault(103, api.vm.snap, "av", {"version": name})
        self.assertEqual(api.version.list("av")["versions"], [])
        api.vm.snap("av", {"version": "a"})
        self.fault(103, api.version.remove, "av", ["a/b"])
        self.fault(105, api.version.remove, "av", ["a", 5])
        self.fault(105, api.version.remove, "av", "a")
        self.assertEqual(api.version.remove("av", []), 0)
        self.fault(105, api.version.list, "av", {"after": "nonsense"})
        self.fault(105, api.vm.rollback, "av", "a", {"keep": "x", "discard": True})
        self.fault(105, api.disk.diff, "av", "a", "av", "", "root", {"offset": "-1"})
        self.fault(105, api.disk.diff, "av", "a", "av", "", "root", {"offset": "1048577"})
        self.fault(100, api.disk.diff, "av", "a", "av", "", "none")
        self.fault(108, api.disk.diff, "av", "a", "unrelated", "", "root")
        self.fault(108, api.vm.diff, "av", "a", "unrelated", "")
        self.assertEqual(api.disk.diff("av", "a", "av", "", "root", {"offset": "1048576"}),
                         {"size": "1048576", "extents": [], "next": ""})
        self.fault(116, api.vm.snap, "av", {"version": "b", "quiesce": "require"})
        self.assertIn("as after a crash", api.vm.snap("av", {"version": "b", "quiesce": "auto"})["warning"])
        self.assertEqual(api.version.select("av", ["..b", "a"]), {"names": ["a", "b"]})
        self.assertEqual(api.version.select("av", ["a..", ".."], {"measure": True}), {"names": ["a", "b"], "bytes": "0"})
        self.fault(106, api.version.select, "av", ["a..c"])
        self.fault(105, api.version.select, "av", ["b..a"])

    def test_lists_of_versions_come_in_pages(self):
        api = self.api
        for name in ("pa", "pb"):
            self.vm(name)
        calls = [{"methodName": "vm.snap", "params": ["pa", {"version": "v%d" % i}]} for i in range(1300)]
        for i in range(0, 1300, 500):
            self.assertTrue(all(isinstance(r, list) for r in api.system.multicall(calls[i:i + 500])))
        api.vm.snap("pb", {"version": "last"})
        pages, after = [], {}
        while True:
            answer = api.version.list("", dict(after))
            pages.append([v["vm"] + "@" + v["name"] for v in answer["versions"]])
            if not answer["next"]:
                break
            after = {"after": answer["next"]}
        self.assertEqual([len(p) for p in pages], [1000, 301])
        self.assertEqual(sum(pages, []), ["pa@v%d" % i for i in range(1300)] + ["pb@last"])
        # What the last page ended with is gone: the next one begins behind it all the same.
        api.version.remove("pa", ["v999"])
        again = api.version.list("", {"after": after["after"]})
        self.assertEqual(again["versions"][0]["name"], "v1000")
        # All of them together or none, up to 512; more at once.
        api.version.hold("pa", "v700", True)
        self.fault(107, api.version.remove, "pa", ["v690..v710"])
        self.assertEqual(api.vm.show("pa")["versions"], 1299)
        api.version.hold("pa", "v700", False)
        self.assertEqual(api.version.remove("pa", ["v300..v900"]), 601)
        self.assertEqual(api.vm.show("pa")["versions"], 698)

    def test_many_take_anonymous_versions_at_once(self):
        self.vm("race-v")

        def work(_):
            with self.proxy() as api:
                return [api.vm.snap("race-v")["name"] for _ in range(10)]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            names = sum(pool.map(work, range(12)), [])
        self.assertEqual(len(set(names)), 120)
        self.assertEqual({v["name"] for v in self.api.version.list("race-v")["versions"]}, set(names))

    def test_a_guest_that_takes_its_time_holds_up_nobody_else(self):
        self.vm("slow")
        path = self.dir.name + "/agent"
        with agent.Agent(path, freeze_s=3) as guest, self.proxy() as other, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            snap = pool.submit(other.vm.snap, "slow", {"version": "v", "quiesce": "require", "agent": path})
            while "guest-fsfreeze-freeze" not in guest.commands:
                time.sleep(0.01)
            start = time.monotonic()
            self.api.vm.list()
            self.api.vm.snap("slow", {"version": "w"})
            self.assertLess(time.monotonic() - start, 1)
            self.assertEqual(snap.result(20)["consistency"], "filesystem")
            self.assertFalse(guest.frozen)

    # ---- store, jobs, events

    def test_space_and_counters_are_decimal_strings(self):
        space = self.api.store.space()
        for key in ("capacity", "reserve", "data", "tables", "dead", "pending", "available", "allocated"):
            self.assertRegex(space[key], r"^[0-9]+$")
        self.assertGreater(int(space["capacity"]), 1 << 29)
        names = [c["name"] for c in self.api.store.counters()]
        self.assertEqual(len(names), len(set(names)))
        self.assertTrue(any("connection" in name for name in names), names)
        for counter in self.api.store.counters():
            self.assertRegex(counter["value"], r"^[0-9]+$")
            self.assertTrue(counter["description"])

    def test_a_check_is_a_job(self):
        job = self.api.store.check(True)
        for _ in range(300):
            status = self.api.job.status(job)
            if status["state"] != "running":
                break
            time.sleep(0.05)
        self.assertEqual((status["state"], status["problems"], status["lines"]), ("done", "0", []))
        self.assertTrue(self.api.job.cancel(job))  # too late: stays as it is
        self.assertEqual(self.api.job.status(job)["state"], "done")
        self.fault(100, self.api.job.status, 123456)
        self.fault(100, self.api.job.cancel, -1)

    def test_info_and_events(self):
        info = self.api.daemon.info()
        self.assertEqual(info["nbd_socket"], self.run_dir + "/nbd.sock")
        self.assertIn(info["io_engine"], ("io_uring", "threads"))
        if CONFIG and "threads" in CONFIG:
            self.assertEqual(info["io_engine"], "threads")
        self.assertIsInstance(self.api.events.list(), list)

    def test_what_cannot_be_carried_is_escaped(self):
        for text in ("\U0001f680", "\ufffe"):
            self.fault(-503, self.api.vm.create, text)
            self.fault(-503, self.api.vm.create, "x", {text: "1"})
        # Between the two bytes of a character the sentences would be cut.
        self.assertIn("70 characters", self.fault(103, self.api.vm.show, "a" + "\u00fc" * 69))
        self.assertIn("use 1 to 64 letters", self.fault(103, self.api.vm.show, "a" + "\u00fc" * 40))
        self.assertIn("is not a role", self.fault(105, self.api.vm.create, "x", {"role": "a" + "\u00fc" * 40}))
        status, answer = self.post(xmlrpc.client.dumps((), "\U0001f680").encode())
        self.assertEqual(status, 200)
        with self.assertRaises(xmlrpc.client.Fault):
            xmlrpc.client.loads(answer)

    def test_a_store_may_lie_at_any_path(self):
        with tempfile.TemporaryDirectory(prefix="varve-api-") as top:
            store, run = top + "/\U0001f680 caf\udce9\x01", top + "/run"
            subprocess.run([VARVED, "--init", "--store", store, "--capacity", "1G"], check=True)
            daemon = subprocess.Popen([VARVED, "--store", store, "--run", run])
            try:
                for _ in range(200):
                    if os.path.exists(run + "/varve.sock"):
                        break
                    time.sleep(0.05)
                with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=Transport(run + "/varve.sock")) as api:
                    self.assertEqual(api.daemon.info()["store"], top + "/\\xf0\\x9f\\x9a\\x80 caf\\xe9\\x01")
            finally:
                daemon.send_signal(signal.SIGTERM)
                self.assertEqual(daemon.wait(30), 0)

    # ---- bad clients

    def test_malformed_requests_get_a_fault(self):
        bodies = [b"", b"x", b"<methodCall>", b"<methodCall></methodCall>", b"\xff" * 100, b"<a>" * 1000,
                  b"<?xml version='1.0'?><methodCall><methodName>vm.list</methodName><params>",
                  xmlrpc.client.dumps((), "vm.list").encode("utf-16"),
                  b"<methodCall><methodName>a</methodName><params><param><value><int>x</int></value></param>"
                  b"</params></methodCall>",
                  b"<methodCall><methodName>vm.show</methodName><params><param>" +
                  b"<value><array><data>" * 500 + b"</data></array></value>" * 500 +
                  b"</param></params></methodCall>"]
        for i8 in ("i8", "ex:i8"):  # these crash libxmlrpc (found by the fuzzer)
            bodies.append(b"<methodCall><methodName>vm.show</methodName><params><param><value><%s>9x</%s></value>"
                          b"</param></params></methodCall>" % (i8.encode(), i8.encode()))
        for body in bodies:
            status, answer = self.post(body)
            self.assertEqual(status, 200, body[:80])
            with self.assertRaises(xmlrpc.client.Fault):
                xmlrpc.client.loads(answer)

    def test_entities_are_refused(self):
        body = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">%s]>
<methodCall><methodName>&z;</methodName></methodCall>""" % b"".join(
            b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(25))
        start = time.monotonic()
        status, answer = self.post(body)
        self.assertLess(time.monotonic() - start, 2)
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            xmlrpc.client.loads(answer)
        self.assertIn("document types", caught.exception.faultString)

    def test_only_post_to_rpc2(self):
        self.assertEqual(self.post(b"", method="GET")[0], 405)
        self.assertEqual(self.post(b"", method="PUT")[0], 405)
        self.assertEqual(self.post(b"x", url="/")[0], 404)
        self.assertEqual(self.post(b"x", url="/RPC2/../x")[0], 404)

    def test_huge_bodies_are_refused(self):
        try:
            status = self.post(b"x" * (2 << 20))[0]
            self.assertEqual(status, 413)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused while we still sent
        large = xmlrpc.client.dumps(("x" * ((1 << 20) - 400),), "vm.show").encode()
        self.assertLessEqual(len(large), 1 << 20)
        status, answer = self.post(large)
        self.assertEqual(status, 200)
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            xmlrpc.client.loads(answer)
        self.assertEqual(caught.exception.faultCode, 103)

        def endless():
            for _ in range(100000):
                yield b"x" * 65536
        with self.assertRaises((BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected)):
            self.post(endless())
        self.assertTrue(self.api.daemon.info())

    def test_slow_and_vanishing_clients_stop_nobody(self):
        held = []
        for text in (b"", b"POST /RPC2 HTTP/1.1\r\n", b"POST /RPC2 HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"):
            for _ in range(5):
                s = socket.socket(socket.AF_UNIX)
                s.connect(self.path)
                s.sendall(text)
                held.append(s)
        for s in held[::2]:
            s.close()
        start = time.monotonic()
        self.api.vm.list()
        self.assertLess(time.monotonic() - start, 2)
        for s in held:
            s.close()

    def test_concurrent_clients(self):
        def work(i):
            with self.proxy() as api:
                for j in range(5):
                    api.vm.create("c%d-%d" % (i, j), {"size": "65536"})
                    api.vm.rename("c%d-%d" % (i, j), "d%d-%d" % (i, j))
                made = [v["name"] for v in api.vm.list()]
                for j in range(5):
                    assert "d%d-%d" % (i, j) in made
                    api.vm.remove("d%d-%d" % (i, j))
                return True
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            self.assertTrue(all(pool.map(work, range(12))))
        # One name, many who want it: one gets it.
        def race(_):
            try:
                with self.proxy() as api:
                    return api.vm.create("race")
            except xmlrpc.client.Fault as e:
                assert e.faultCode == 101
                return False
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            self.assertEqual(sum(pool.map(race, range(12))), 1)
        self.api.vm.remove("race")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], warnings="ignore")
