"""The site, for any ASGI server: ``uvicorn example_worker.asgi:application --workers 2``."""

import multiprocessing
import os
import sys

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from example_worker.processes import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_worker.settings")

server = multiprocessing.parent_process()
if server is not None:  # one of several processes, which end with the one that started them
    die_with_parent()
    if os.getppid() != server.pid:
        sys.exit("the server ended while this process started")

# So there is one server to start; on a site of your own, let nginx or WhiteNoise send the static files.
application = ASGIStaticFilesHandler(get_asgi_application())
