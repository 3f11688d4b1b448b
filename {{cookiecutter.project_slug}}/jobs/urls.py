"""The URLs of jobs, for programs."""

from django.urls import path

from . import views

app_name = "jobs"
urlpatterns = [
    path("add/", views.add, name="add"),
    path("<uuid:job_id>/", views.state, name="state"),
]
