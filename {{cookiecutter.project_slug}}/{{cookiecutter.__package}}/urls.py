"""Where each address leads."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path

from jobs import page

urlpatterns = [
    path("", page.index, name="index"),
    # The health probe: the web server answers; what is behind it has probes of its own.
    path("health/", lambda _request: HttpResponse("well\n", content_type="text/plain")),
    path("admin/", admin.site.urls),
    path("jobs/", include("jobs.urls")),
]
