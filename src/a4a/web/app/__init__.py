"""`a4a web`: the page in a browser, made with Gradio. `launch.py` serves it, `page.py` lays it out, a file a tab."""
