"""The playground in a real browser: headless Chromium, driven by Playwright. Skipped where one of them is missing.

CLAMOR_SCREENSHOTS=FOLDER keeps what it looked like.
"""
import importlib.util
import os
import pathlib
import shutil
import unittest

from client import Client, QUESTIONS
from cluster import ClusterTest, SECONDS, main

CHROMIUM = shutil.which("chromium")
SIZES = {"desktop": {"width": 1360, "height": 860}, "phone": {"width": 390, "height": 844}}
QUESTION = "Tom has 3 boxes with 12 apples each. He gives 9 apples to Mia and sells half of the rest. How many apples does he have left?"


def has(module):
    return importlib.util.find_spec(module) is not None


@unittest.skipUnless(CHROMIUM and has("playwright"), "chromium or the playwright package is not installed")
class PageTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        from playwright.sync_api import sync_playwright
        driver = cls.enterClassContext(sync_playwright())
        cls.browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        cls.addClassCleanup(cls.browser.close)
        cls.questions = iter([QUESTIONS[number] for number in (3, 1, 18, 23, 0, 25)])

    def open(self, theme="light", size="desktop", gateway=None):
        """A page of which every complaint of the browser fails the test."""
        context = self.browser.new_context(viewport=SIZES[size], color_scheme=theme)
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        self.complaints = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"http://{(gateway or self.cluster.gateway).api}/")
        return page

    def ask(self, page, text=QUESTION):
        page.fill("#prompt", text)
        page.press("#prompt", "Enter")
        page.wait_for_selector('#status:has-text("tokens in")')

    def test_chats_in_both_themes_and_sizes(self):
        for theme in ("light", "dark"):
            for size in SIZES:
                with self.subTest(theme=theme, size=size):
                    question = next(self.questions)  # one that the store does not know the answer to
                    expected = Client(self.cluster.gateway).ask([("user", question)], max_tokens=256, store=False).text
                    page = self.open(theme, size)
                    page.click("#settings summary")
                    page.select_option("#nodes", "16")  # whatever pays on this machine
                    page.click("#settings summary")
                    self.ask(page, question)
                    self.assertEqual(page.text_content(".turn.answer .text"), expected)
                    drafted = page.locator('.turn.answer .token:not([data-source="model"])')
                    self.assertGreater(drafted.count(), 5)
                    tint = drafted.first.evaluate("token => getComputedStyle(token).backgroundColor")
                    self.assertNotIn(tint, ("rgba(0, 0, 0, 0)", "transparent"))
                    self.assertGreater(float(page.text_content("#per-forward")), 1.5)
                    self.choose_telling_step(page)
                    self.assertGreater(page.locator("#tree .right").count(), 1)
                    self.assertGreater(page.locator("#tree rect").count(), 8)
                    page.click("#compare")
                    page.wait_for_selector('#verdict:has-text("The same")')
                    ratio = float(page.text_content("#ratio").removeprefix("× "))
                    if ratio != 1:  # as rounded
                        self.assertEqual("So many guesses" in page.text_content("#verdict"), ratio < 1)
                    width = page.evaluate("document.documentElement.scrollWidth")
                    self.assertLessEqual(width, SIZES[size]["width"], "nothing sticks out")
                    self.check_accessible(page)
                    self.assertEqual(self.complaints, [])

    @unittest.skipUnless("CLAMOR_SCREENSHOTS" in os.environ, "no folder for screenshots")
    def test_screenshots(self):
        """As it is for whoever opens it: with as many guesses as pay, on a worker that has answered before."""
        for question in QUESTIONS[30:36]:
            Client(self.cluster.gateway).ask([("user", question)], max_tokens=256)
        for theme, size in (("light", "desktop"), ("dark", "phone")):
            page = self.open(theme, size)
            self.ask(page, next(self.questions))
            page.click("#compare")
            page.wait_for_selector('#verdict:has-text("The same")')
            self.choose_telling_step(page)
            path = pathlib.Path(os.environ["CLAMOR_SCREENSHOTS"]) / f"{theme}-{size}.png"
            page.screenshot(path=str(path), full_page=size == "phone")
            self.assertLess(path.stat().st_size, 200_000)
            print(f"{path}: {page.text_content('#per-forward')} tokens per forward, {page.text_content('#ratio')} to plain")

    def choose_telling_step(self, page):
        """The one with most guesses both right and wrong. By the keyboard, as anybody can."""
        best = page.evaluate("""answer.steps
            .map(({tree}, index) => [Math.min(2 * tree.accepted.length, tree.nodes.length - tree.accepted.length), index])
            .sort((a, b) => b[0] - a[0])[0][1]""")
        page.focus("#steps")
        page.keyboard.press("Home")
        for _ in range(best):
            page.keyboard.press("ArrowRight")
        self.assertIn(f"{best + 1} of", page.text_content("#step-number"))

    def check_accessible(self, page):
        if not has("axe_playwright_python"):
            return
        from axe_playwright_python.sync_playwright import Axe
        violations = Axe().run(page).response["violations"]
        serious = [f"{each['id']}: {each['help']} {[node['target'] for node in each['nodes']][:3]}"
                   for each in violations if each["impact"] in ("serious", "critical")]
        self.assertEqual(serious, [])

    def test_a_conversation_goes_on_and_can_be_stopped(self):
        page = self.open()
        page.click("#examples button >> nth=0")
        page.wait_for_selector('#status:has-text("tokens in")')
        self.ask(page, "And if he sells all of them?")
        self.assertEqual(page.locator(".turn.answer").count(), 2)
        self.assertEqual(page.evaluate("messages.map(message => message.role).join()"), "user,assistant,user,assistant")
        page.click("#reset")
        self.assertEqual(page.locator(".turn").count(), 0)
        # At once: an answer may take a few milliseconds only.
        page.evaluate("text => { ask(text); document.getElementById('send').click(); }", QUESTION)
        page.wait_for_selector('#status:has-text("Stopped")')
        page.wait_for_selector('#send:has-text("Send")')
        self.ask(page)
        self.assertEqual(self.complaints, [])

    def test_errors_are_shown(self):
        page = self.open()
        page.click("#settings summary")
        page.fill("#max-tokens", "100000")
        page.fill("#prompt", QUESTIONS[0])
        page.press("#prompt", "Enter")
        page.wait_for_selector(".turn.error")
        self.assertIn("exceed the context", page.text_content(".turn.error .text"))

    def test_it_can_be_off(self):
        gateway = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--no-page")
        page = self.open(gateway=gateway.wait_ready())
        self.assertIn("unknown_url", page.content())


if __name__ == "__main__":
    main()
