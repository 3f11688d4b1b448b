"""The addresses of the project."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path

from jobs import page

urlpatterns = [
    path("", page.index, name="index"),
    # The health probe tells that the web server answers; the other processes have their own.
    path("health/", lambda _request: HttpResponse("ok\n", content_type="text/plain")),
    path("admin/", admin.site.urls),
    path("jobs/", include("jobs.urls")),
]
