"""The site as an ASGI application: ``uvicorn example_worker.asgi:application --workers 2``."""

import multiprocessing
import os
import sys

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from example_worker.processes import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_worker.settings")

server = multiprocessing.parent_process()
if server is not None:  # this is one of several processes that the server started
    die_with_parent()
    if os.getppid() != server.pid:
        sys.exit("stopped: the server process ended during the start")

# Serves static files too, so that the example needs no other server. Use nginx or WhiteNoise in production.
application = ASGIStaticFilesHandler(get_asgi_application())
